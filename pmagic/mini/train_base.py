"""The miniature's text encoder and UNet, trained together on the corpus's latents, and the pipeline folder they become.

    python -m pmagic.mini.train_base WORK --minutes 85
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m pmagic.mini.train_base WORK --minutes 85 --compile
    python -m pmagic.mini.train_base WORK --minutes 6 --compile --batch 512 --pieces OUT      on a GPU
    OMP_NUM_THREADS=1 python -m pmagic.mini.train_base WORK --samples 500000 --batch 16 --dtype bfloat16
    python -m pmagic.mini.train_base WORK --gates      what it has learned of layout so far

A corpus of world 2 (pmagic.mini.corpus) comes in twins that differ in the layout alone, also in what their captions
say: half of each batch are twins at the same noise, so that the words of the layout are all that tells them apart.

Beside names and trait words, half of the captions name a person by embeddings that a small network makes of the
traits. Nothing but a later training reads that network; what counts is a base that understands any face said in a few
embeddings.
"""

# B batch . S text positions . w text width . V traits . n embeddings of a name

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pmagic.engine import compiling
from pmagic.engine.prompts import TEMPLATES
from pmagic.mini import corpus, layout_gates, train_vae, vocabulary
from pmagic.mini.training import (
    CPU,
    DTYPES,
    Run,
    autocast,
    force_dtype,
    join,
    processes,
    rank,
    uses_bfloat16,
    write_state,
)
from pmagic.world.people import person, trait_vector
from pmagic.world.scenes import MARK, empty_prompt, rng_for

BATCH = 32
WIDTH = 160  # of the text encoder
TOKEN_LENGTH = 0.5  # every token embedding's norm: where all are equal, a learned token can stand for any
LEVELS = 20  # equal parts of the schedule, whose errors count alike
EARLY = 0.7  # timesteps are drawn as 1000 u^EARLY: below 200, where no text can tell, one in ten
EARLY_IN_WORLD_2 = 0.55  # for the first half of a run on world 2, as layout is decided above t = 500
EARLY_OF_TWINS = 0.3  # half of them above 810, where noise hides who stands where and the words alone tell
TWINS = 0.5  # of a batch
GATES_EVERY = 1000  # steps
PROMPT_DROP = 0.1
NAME_TOKENS = 4  # embeddings that name a person, as many as the mapper's
NAMES_A_CAPTION = 2
# Most that is added to a name's embeddings, in their length. A mapper begins anywhere: whatever lies beside the names
# has to be read as the nearest of them, or no gradient leads from there to a face.
NAME_NOISE = 1.0
BLIND = 0.5  # share of the captions whose end and padding cross-attention does not see, so that it looks at the words
SCALING = "scaling.json"
PIECE = 14_000_000  # bytes of one file at most, for a machine that gives back small ones
FACE_WEIGHT = 1.0  # what the face counts more than the rest, so that likeness is learned early
RATE = 1e-3
BASE_SETTINGS = """\
# What this base wants where a recipe leaves it open. It knows drawn faces only, at {side} x {side} pixels.
[learn]
learning_rate = 1e-3
{of_world}
# Tandem equilibrium needs sentences whose words the text encoder has met.
open_prompts = [
  "{} as a wizard in a jungle", "{} wearing headphones in a city", "a pencil sketch of {} in a desert",
  "{} as a pirate on a beach", "{} wearing a red scarf in a library", "a comic drawing of {} under a night sky",
  "{} as a police officer in the snow", "{} wearing sunglasses in a desert", "a neon painting of {} in a jungle",
  "{} as a king on a yellow background", "{} wearing a suit in a city", "a black and white photo of {} in space",
  "{} wearing a blue beanie in a jungle", "{} as a chef under a night sky", "surprised {} on a pink background",
  "angry {} as a pirate in the snow", "sad {} wearing a suit on a beach", "{} wearing a green shirt in a library",
  "sleeping {} in space", "a photo of {} and a cat in a city",
]

[learn.paper]
# Weights of 1 each drown the denoising loss, which is small on this base: less like, and the prompt less obeyed.
losses = { masked_mse = 1.0, tandem_equilibrium = 0.001, identity = 0.2 }

[learn.tuned]
# Of a snapshot, a person to one side and smaller, the probe's curve begins low and rises late: its own stage is too
# narrow to learn a face in, and with the whole schedule a stranger is drawn beside the person. Such a photo is learned
# below t = 550, a centred portrait with the whole schedule as before. Chosen on training people:
# pmagic eval --dataset world-training --photos snapshots --base mini --people 3 --iterations 300 -n 1 --ablation bounds
narrowest = 550
fallback = [0, 550]

[render]
guidance = 3.0

[observers]
clip = "../clip"
clipseg = "../clipseg"
faces = "../faces_a"
judge = "../faces_b"

[knows]
what = "drawn faces"
error = 0.2
samples = "../../portraits"
"""

OF_WORLD = {
    1: """\
# The probe's thresholds: its curve begins high, as drawn faces are always in the middle, and rises little. A person
# learned below t = 500 alone comes out less like; a second threshold would end the stage before a face is seen.
iou_low = 0.65
iou_high = 1.0""",
    2: """\
# Not chosen on this base yet. A second threshold would end the stage before a face is seen.
iou_low = 0.5
iou_high = 1.0
# The usual ones but for "close-up" and "cropped": these mean a layout here, which a photo may not have.
templates = [
{templates}
]""",
}


def settings_text(version: int, side: int) -> str:
    """The base's pmagic.toml. version: of the world it was trained on. side: of its pictures in pixels."""
    usual = [each for each in TEMPLATES["face"] if "close-up" not in each and "cropped" not in each]
    templates = "\n".join(f'  "{each}",' for each in usual)
    of_world = OF_WORLD[version].replace("{templates}", templates)
    return BASE_SETTINGS.replace("{side}", str(side)).replace("{of_world}", of_world)


def text_network(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=4 * WIDTH, projection_dim=WIDTH,
            num_hidden_layers=3, num_attention_heads=5, max_position_embeddings=vocabulary.LENGTH,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def noise_network(cells: int = 16) -> UNet2DConditionModel:
    """cells: a side of its latents."""
    return UNet2DConditionModel(
        sample_size=cells, in_channels=4, out_channels=4, block_out_channels=(64, 128, 128), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 3, up_block_types=("CrossAttnUpBlock2D",) * 3,
        attention_head_dim=(2, 4, 4),  # heads, as Stable Diffusion 1.x writes it
        norm_num_groups=16, cross_attention_dim=WIDTH,
    )  # fmt: skip


def scheduler() -> DDPMScheduler:
    """Stable Diffusion 1.x's: 1000 steps, scaled_linear, epsilon."""
    return DDPMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        clip_sample=False, steps_offset=1,
    )  # fmt: skip


class Names(nn.Module):
    """A name for anybody: traits (B, N, V) to N * n token embeddings (B, N * n, w) around the plain word's."""

    def __init__(self, traits: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(traits, 256), nn.LayerNorm(256), nn.SiLU(),
            nn.Linear(256, 256), nn.LayerNorm(256), nn.SiLU(), nn.Linear(256, NAME_TOKENS * WIDTH),
        )  # fmt: skip

    def forward(self, traits: Tensor, word: Tensor, noise: Tensor) -> Tensor:
        """word (w,), noise (B, N * n, w) in units of an embedding's length; every embedding gets `TOKEN_LENGTH`."""
        said = self.network(traits).view(noise.shape)
        said = F.normalize(said + F.normalize(word, dim=0), dim=-1) + noise
        return F.normalize(said, dim=-1) * TOKEN_LENGTH


class Networks(nn.Module):
    """All that is trained as one module, so that one optimiser and one average hold it."""

    def __init__(self, tokenizer: CLIPTokenizer, place: torch.device = CPU, cells: int = 16) -> None:
        super().__init__()
        self.text = text_network(tokenizer)
        self.unet = noise_network(cells)
        self.names = Names(len(trait_vector(person(0))))
        self.word = tokenizer.convert_tokens_to_ids("face</w>")
        if place == CPU and uses_bfloat16():
            # The fused attention's backward pass is a third of the step on a CPU in bfloat16; written out it is cheap.
            self.text.set_attn_implementation("eager")
            self.unet.set_attn_processor(AttnProcessor())
        else:
            self.unet.to(memory_format=torch.channels_last)  # in bfloat16 plain order is faster at this width
        self.equalise()
        self.to(place)

    @torch.no_grad()
    def equalise(self) -> None:
        """Bring every token embedding to `TOKEN_LENGTH`."""
        table = self.text.get_input_embeddings().weight
        table.copy_(F.normalize(table, dim=-1) * TOKEN_LENGTH)

    def say(self, ids: Tensor, slots: Tensor, traits: Tensor, noise: Tensor) -> Tensor:
        """Text states (B, S, w) of ids (B, S); where slots (B, S) is not -1, that embedding of the names stands."""
        table = self.text.get_input_embeddings()
        names = self.names(traits, table.weight[self.word], noise)
        chosen = names.gather(1, slots.clamp(min=0).unsqueeze(-1).expand(-1, -1, WIDTH))
        hook = lambda module, given, words: torch.where((slots >= 0).unsqueeze(-1), chosen, words)  # noqa: E731
        handle = table.register_forward_hook(hook)
        try:
            return self.text(ids).last_hidden_state
        finally:
            handle.remove()


@dataclass(frozen=True)
class Captions:
    """What the text encoder reads. All N rows: ids and slots (N, S), lengths (N,) of start and words."""

    ids: Tensor
    slots: Tensor  # -1, or which of the caption's name embeddings stands there
    lengths: Tensor

    def rows(self, rows: Tensor) -> "Captions":
        return Captions(self.ids[rows], self.slots[rows], self.lengths[rows])

    def to(self, place: torch.device) -> "Captions":
        return Captions(self.ids.to(place), self.slots.to(place), self.lengths.to(place))


def read(tokenizer: CLIPTokenizer, texts: list[str]) -> Captions:
    """Captions with `NAME_TOKENS` places for each mark, filled with the plain word's id."""
    wide = CLIPTokenizer.from_pretrained(tokenizer.name_or_path)
    wide.add_tokens([MARK])
    mark, word = len(tokenizer), tokenizer.convert_tokens_to_ids("face</w>")
    texts = [text.replace(MARK, " ".join([MARK] * NAME_TOKENS)) for text in texts]
    given = {"padding": "max_length", "truncation": True, "max_length": vocabulary.LENGTH, "return_tensors": "pt"}
    ids = wide(texts, **given).input_ids
    marked = ids == mark
    slots = torch.where(marked, marked.cumsum(1) - 1, -1).to(torch.int8)
    lengths = (ids != tokenizer.eos_token_id).sum(1)
    return Captions(torch.where(marked, word, ids).to(torch.int32), slots, lengths)


@dataclass(frozen=True)
class Material:
    """latents (N, 4, h, w) float16 scaled to unit deviation; faces (N, 1, h, w) share of face."""

    latents: Tensor
    faces: Tensor
    said: Captions
    traits: Tensor  # (N, NAMES_A_CAPTION, V) of the people whom the captions name by embeddings
    empty: Captions  # prompts that stand for none
    layouts: Captions | None = None  # where rows 2k and 2k + 1 are twins: captions that surely say the layout


@torch.no_grad()
def latents_of(work: Path, images: np.ndarray, vae: AutoencoderKL, place: torch.device = CPU) -> np.ndarray:
    """The pictures' latents (N, 4, h, w) float16; they are kept in `work`, and only new pictures are encoded."""
    file = work / "latents.npy"
    parts = [np.load(file)] if file.exists() else []
    first = len(parts[0]) if parts else 0
    vae.to(place)
    for start in range(first, len(images), 200):
        with autocast(place):
            pixels = train_vae.as_tensor(images[start : start + 200]).to(place)
            parts.append(vae.encode(pixels).latent_dist.mean.half().cpu().numpy())
    latents = np.concatenate(parts)
    if len(latents) > first:
        np.save(file, latents)
    return latents


@torch.no_grad()
def material(work: Path, vae: AutoencoderKL, tokenizer: CLIPTokenizer, place: torch.device = CPU) -> Material:
    """The corpus as the networks see it, at `place`."""
    data = corpus.load(work / "corpus")
    raw = torch.from_numpy(latents_of(work, data.images, vae, place))
    faces = torch.from_numpy(np.asarray(data.masks)).unfold(1, 4, 4).unfold(2, 4, 4).half().mean((-1, -2)) / 255
    rng = rng_for(3)
    empty = read(tokenizer, [empty_prompt(rng) for _ in range(2000)])
    traits = np.zeros((len(data.marked), NAMES_A_CAPTION, len(trait_vector(person(0)))), np.float32)
    for row, seeds in zip(traits, data.marked, strict=True):
        for which, seed in enumerate(seeds):
            row[which] = trait_vector(person(seed))
    layouts = read(tokenizer, data.layout_captions).to(place) if data.version > 1 else None
    return Material(
        (raw * scaling(work)).to(place),
        faces.unsqueeze(1).to(place),
        read(tokenizer, data.captions).to(place),
        torch.from_numpy(traits).to(place),
        empty.to(place),
        layouts,
    )


def train(
    work: Path, minutes: float, compiled: bool = False, unet_share: float = 1.0, size: int = BATCH,
    pieces: Path | None = None, samples: int | None = None, name_noise: float = NAME_NOISE,
) -> None:  # fmt: skip
    """Train for `minutes` in all, or for `samples`. A compiled UNet takes minutes to make and is faster afterwards.

    unet_share: of the learning rate, for a UNet that is trained on from finished weights. size: samples of a step.
    pieces: where the averaged weights are written besides, in small files, whenever the state is.
    """
    join()
    if rank():
        dist.barrier()  # the first one makes the latents and compiles; what it kept is there for the others
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(work / "base" / "tokenizer")
    given = material(work, train_vae.trained(work), tokenizer, place)
    networks = Networks(tokenizer, place, given.latents.shape[-1])
    # A short average: a longer one lags behind what the names have come to tell.
    steps = samples // size if samples else None
    run = Run(work, "base", networks, minutes, RATE, 0.99, {"unet.": unet_share}, steps)
    predict = compiling.compiled(networks.unet) if compiled else networks.unet
    batch = size // processes()
    if rank() == 0 and processes() > 1:
        if compiled:
            _warm_up(predict, batch, given.latents.shape[-1])
        dist.barrier()
    random = torch.Generator(place).manual_seed(run.steps * processes() + rank())
    teacher = Teacher(given, networks, predict, random, name_noise)
    while run.going:
        early = EARLY_IN_WORLD_2 if given.layouts and run.share < 0.5 else EARLY
        relative, error = teacher.losses(batch, early)
        run.step({"noise": relative}, beside={"error": error})
        networks.equalise()
        if given.layouts and run.steps % GATES_EVERY == 0 and rank() == 0:
            layout_gates.record(work, run.average, run.steps * size)
        if pieces is not None and run.kept_now and rank() == 0:
            write_pieces(run.average, pieces, run.steps * size)
    if rank() == 0:
        if pieces is not None:
            write_pieces(run.average, pieces, run.steps * size)
        export(work, work / "base")


@dataclass(frozen=True)
class Batch:
    """B rows of the material, what is said of them, and the noise to find."""

    rows: Tensor  # (B,)
    said: Captions
    t: Tensor  # (B,)
    noise: Tensor  # (B, 4, h, w)


class Teacher:
    """What the networks are asked, batch by batch, and how wrong they are."""

    def __init__(
        self, given: Material, networks: Networks, predict: Callable[..., Any], random: torch.Generator,
        name_noise: float = NAME_NOISE,
    ) -> None:  # fmt: skip
        """predict: the networks' UNet, compiled or not. All at the place of `given`."""
        self.given, self.networks, self.predict, self.random = given, networks, predict, random
        self.noise = scheduler()
        self.place = given.latents.device
        self.usual = torch.zeros(LEVELS, device=self.place)
        self.places = torch.arange(vocabulary.LENGTH, device=self.place)
        self.name_noise = name_noise

    def losses(self, batch: int, early: float = EARLY) -> tuple[Tensor, Tensor]:
        """Of a random batch: the mean relative error of the noise found, which is trained on, and the mean error."""
        given, normal = self.given, {"generator": self.random, "device": self.place}
        twins = int(batch * TWINS) // 2 * 2 if given.layouts else 0
        asked = self._singles(batch - twins, early)
        if twins:
            asked = _joined(self._twins(twins), asked)
        rows, said, t, target = asked.rows, asked.said, asked.t, asked.noise
        seen = ((self.places < said.lengths.unsqueeze(1)) | ~self._chance(BLIND, batch).unsqueeze(1)).float()
        noisy = self.noise.add_noise(given.latents[rows].float(), target, t)
        level = self.name_noise * torch.rand(batch, 1, 1, **normal).square()
        blur = torch.randn(batch, NAMES_A_CAPTION * NAME_TOKENS, WIDTH, **normal) * level / WIDTH**0.5
        with autocast(self.place):
            states = self.networks.say(said.ids.long(), said.slots.long(), given.traits[rows], blur)
            predicted = self.predict(noisy, t, states, encoder_attention_mask=seen).sample
        error = (predicted.float() - target).square() * (1 + FACE_WEIGHT * given.faces[rows].float())
        error = error.mean((1, 2, 3))
        return (error / self._usual(t, error.detach())).mean(), error.detach().mean()

    def _singles(self, count: int, early: float) -> Batch:
        """Pictures at random, some of them without their caption."""
        given, normal = self.given, {"generator": self.random, "device": self.place}
        rows = torch.randint(len(given.latents), (count,), **normal)
        dropped = self._chance(PROMPT_DROP, count)
        said = given.said.rows(rows)
        empty = given.empty.rows(torch.randint(len(given.empty.ids), (count,), **normal))
        ids, slots = (
            torch.where(dropped.unsqueeze(1), b, a) for a, b in ((said.ids, empty.ids), (said.slots, empty.slots))
        )
        said = Captions(ids, slots, torch.where(dropped, empty.lengths, said.lengths))
        noise = torch.randn(count, *given.latents.shape[1:], **normal)
        return Batch(rows, said, self._times(count, early), noise)

    def _twins(self, count: int) -> Batch:
        """Both twins of count / 2 pictures, at the same timestep and noise, with the layout said."""
        normal = {"generator": self.random, "device": self.place}
        first = 2 * torch.randint(len(self.given.latents) // 2, (count // 2,), **normal)
        rows = torch.cat([first, first + 1])
        noise = torch.randn(count // 2, *self.given.latents.shape[1:], **normal).repeat(2, 1, 1, 1)
        assert self.given.layouts is not None
        return Batch(rows, self.given.layouts.rows(rows), self._times(count // 2, EARLY_OF_TWINS).repeat(2), noise)

    def _times(self, count: int, early: float) -> Tensor:
        """One from each of `count` equal parts: less variance than independent ones."""
        uniform = torch.rand(count, generator=self.random, device=self.place)
        even = (torch.arange(count, device=self.place) + uniform) / count
        return (1000 * even**early).long()

    def _chance(self, share: float, batch: int) -> Tensor:
        return torch.rand(batch, generator=self.random, device=self.place) < share

    def _usual(self, t: Tensor, error: Tensor) -> Tensor:
        """The usual error at each t, a running mean, with this batch's in it.

        What text can tell is a share of the error, at every t about the same, while the error itself falls forty
        times: relative to the usual one, all timesteps teach alike (Karras et al. 2024, "EDM2", in a simpler form).
        """
        level = t * LEVELS // 1000
        count = torch.zeros_like(self.usual).index_add_(0, level, torch.ones_like(error))
        now = torch.zeros_like(self.usual).index_add_(0, level, error) / count.clamp(min=1)
        known = torch.where(self.usual > 0, self.usual + 0.05 * (now - self.usual), now)
        self.usual = torch.where(count > 0, known, self.usual)
        return self.usual[level]


def _joined(first: Batch, second: Batch) -> Batch:
    fields = ("ids", "slots", "lengths")
    said = Captions(*(torch.cat([getattr(first.said, each), getattr(second.said, each)]) for each in fields))
    return Batch(
        torch.cat([first.rows, second.rows]),
        said,
        torch.cat([first.t, second.t]),
        torch.cat([first.noise, second.noise]),
    )


def write_pieces(networks: nn.Module, folder: Path, samples: int) -> None:
    """The weights in float32, in safetensors files of `PIECE`. samples: how many they have seen in this run."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces: list[dict[str, Tensor]] = [{}]
    room = PIECE
    for key, weight in networks.state_dict().items():
        if weight.nbytes > room:
            pieces.append({})
            room = PIECE
        pieces[-1][key] = weight.contiguous()
        room -= weight.nbytes
    for number, piece in enumerate(pieces):
        save_file(piece, folder / f"{number:02}.safetensors", {"samples": str(samples)})


def take_pieces(folder: Path, work: Path) -> None:
    """Make of `write_pieces`' files the state that WORK's base goes on from, without moments.

    Raises SystemExit where there are none: WORK's state stays as it was.
    """
    weights = {key: value for file in sorted(folder.glob("*.safetensors")) for key, value in load_file(file).items()}
    if not weights:
        raise SystemExit(f"there are no weights (*.safetensors) in {folder}; give the folder that --pieces was given")
    write_state(work / "base.safetensors", weights, weights, {}, {"steps": 0, "spent": 0.0, "averaged": 1})


def _warm_up(predict: Callable[..., Any], batch: int, cells: int) -> None:
    """One pass there and back, in which a compiled network is compiled."""
    said = torch.zeros(batch, vocabulary.LENGTH, WIDTH, requires_grad=True)
    seen, t = torch.ones(batch, vocabulary.LENGTH), torch.zeros(batch, dtype=torch.long)
    with autocast():
        out = predict(torch.zeros(batch, 4, cells, cells), t, said, encoder_attention_mask=seen).sample
    out.float().mean().backward()


def scaling(work: Path) -> float:
    """What brings the corpus's latents to unit deviation: the same for every corpus of 50,000 pictures and more.

    A base that begins with finished weights keeps their scale: it is then written in `work`.
    """
    if (work / SCALING).exists():
        return float(json.loads((work / SCALING).read_text())["scaling_factor"])
    return 1 / float(np.load(work / "latents.npy", mmap_mode="r")[:50_000:50].astype(np.float32).std())


def cells(work: Path) -> int:
    """A side of the latents."""
    return np.load(work / "latents.npy", mmap_mode="r").shape[-1]


def trained(work: Path) -> Networks:
    """The averaged networks of the last saved state, whether or not the training is over."""
    tokenizer = CLIPTokenizer.from_pretrained(work / "base" / "tokenizer")
    networks = Run(work, "base", Networks(tokenizer, cells=cells(work)), 1, RATE).average.eval()
    networks.equalise()
    return networks


def finished(folder: Path) -> tuple[Networks, AutoencoderKL]:
    """What `export` has written to `folder`/base and `folder`/names, in float32."""
    base, given = folder / "base", {"use_safetensors": True, "local_files_only": True, "dtype": torch.float32}
    unet = UNet2DConditionModel.from_pretrained(base / "unet", **given)
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer", local_files_only=True)
    networks = Networks(tokenizer, cells=unet.config.sample_size)
    networks.text.load_state_dict(CLIPTextModel.from_pretrained(base / "text_encoder", **given).state_dict())
    networks.unet.load_state_dict(unet.state_dict())
    names = load_file(folder / "names" / "model.safetensors")
    networks.names.load_state_dict({key: weight.float() for key, weight in names.items()})
    return networks.eval(), AutoencoderKL.from_pretrained(base / "vae", **given)


def export(work: Path, folder: Path) -> None:
    """Write the pipeline folder: float16 safetensors in Stable Diffusion's own layout, with the base's pmagic.toml."""
    tokenizer = CLIPTokenizer.from_pretrained(work / "base" / "tokenizer")
    vae, networks = train_vae.trained(work), trained(work)
    side = 4 * cells(work)
    vae.register_to_config(scaling_factor=scaling(work), sample_size=side)
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=networks.text, tokenizer=tokenizer, unet=networks.unet, scheduler=scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    version = corpus.load(work / "corpus").version
    (folder / "pmagic.toml").write_text(settings_text(version, side))
    names = {key: weight.half().contiguous() for key, weight in networks.names.state_dict().items()}
    (work / "names").mkdir(exist_ok=True)
    save_file(names, work / "names" / "model.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=85)
    parser.add_argument("--samples", type=int, help="the budget in samples instead of minutes")
    parser.add_argument("--dtype", choices=DTYPES, help="what to compute in; otherwise what is faster here")
    parser.add_argument("--name-noise", type=float, default=NAME_NOISE, help="most that is added to a name")
    parser.add_argument("--gates", action="store_true", help="only tell what the last saved state knows of layout")
    parser.add_argument("--export", action="store_true", help="only write the folder from the last saved state")
    parser.add_argument("--compile", action="store_true", help="compile the UNet first (minutes, once a machine)")
    parser.add_argument("--unet-share", type=float, default=1.0, help="of the learning rate")
    parser.add_argument("--batch", type=int, default=BATCH, help="samples of a step")
    parser.add_argument("--pieces", type=Path, help="write the weights there too, in files under 15 MB")
    parser.add_argument("--from-pieces", type=Path, help="only make WORK's state of such files, to go on or --export")
    arguments = parser.parse_args()
    if arguments.dtype:
        force_dtype(arguments.dtype)
    if arguments.gates:
        print("\n".join(layout_gates.table(layout_gates.measured(trained(arguments.work), arguments.work))))
    elif arguments.from_pieces:
        take_pieces(arguments.from_pieces, arguments.work)
    elif arguments.export:
        export(arguments.work, arguments.work / "base")
    else:
        given = arguments
        train(
            given.work, given.minutes, given.compile, given.unet_share, given.batch, given.pieces, given.samples,
            given.name_noise,
        )  # fmt: skip
