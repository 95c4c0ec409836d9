"""The authors' own numbers: every part of the engine against ../shared/golden (or $PMAGIC_GOLDEN), in float64.

They come from the authors' public code on a tiny model with random weights. The tests call the engine's functions and
feed them what the numbers were computed from; nothing of the method is written here a second time.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from pmagic.bases import loading
from pmagic.bases.card import Card
from pmagic.engine import chance, mapper, recipes, rendering, schedulers, sentences, subject, training
from pmagic.losses import tandem_equilibrium
from pmagic.methods import personamagic
from pmagic.persona import REFERENCE_BOUNDS, Persona

GOLDEN = Path(os.environ.get("PMAGIC_GOLDEN", Path(__file__).parents[2] / "shared" / "golden" / "reference_a"))
SCALING = 0.18215
ROWS = 20  # of 77 text positions in the stored keys and values

pytestmark = pytest.mark.skipif(
    not (GOLDEN / "training.safetensors").is_file(), reason=f"no golden numbers in {GOLDEN} (set PMAGIC_GOLDEN)"
)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    """Relative L2 distance, absolute where the expected values are all 0."""
    expected = expected.to(torch.float64)
    distance = (found.detach().reshape(expected.shape) - expected).norm() / (expected.norm() or 1.0)
    assert distance <= tolerance, f"relative distance {distance:.3e}"


@pytest.fixture(scope="module", autouse=True)
def everything_in_float64() -> Iterator[None]:
    """diffusers computes the UNet's time features with Tensor.float(); the numbers were computed without rounding."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> loading.Base:
    root = tmp_path_factory.mktemp("golden")
    observer = tiny.build_clip(root / "clip", tiny.build_tokenizer(root / "words"))
    return loading.load(Card("golden", GOLDEN / "sd", None, observer, None, ""), device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def numbers() -> dict[str, Tensor]:
    return load_file(GOLDEN / "training.safetensors")


@pytest.fixture(scope="module")
def drawn() -> dict[str, Tensor]:
    return load_file(GOLDEN / "inference.safetensors")


def golden_mapper(numbers: dict[str, Tensor]) -> mapper.Mapper:
    shape = mapper.MapperShape(tokens=4, text_width=768, image_width=512)
    found = mapper.Mapper(shape, numbers["word_embedding"].reshape(-1).double(), REFERENCE_BOUNDS).double()
    prefix = "mapper."
    found.load_state_dict({k.removeprefix(prefix): v.double() for k, v in numbers.items() if k.startswith(prefix)})
    return found


def said(base: loading.Base, numbers: dict[str, Tensor], kind: str, steps: tuple[int, int]) -> sentences.Sentences:
    """The prompts of two micro-steps as they were tokenised, their placeholders as slots."""
    ids = torch.cat([numbers[f"step{k}.{kind}.ids"] for k in steps])
    slots = torch.full_like(ids, -1)
    for slot, placeholder in enumerate(numbers["placeholder_ids"].tolist()):
        slots[ids == placeholder] = slot
    known = ids.masked_fill(slots >= 0, base.pipeline.tokenizer.eos_token_id)
    lengths = (ids != base.pipeline.tokenizer.eos_token_id).sum(dim=1) - 1
    return sentences.Sentences(known, slots, lengths)


def lesson(
    base: loading.Base, numbers: dict[str, Tensor], steps: tuple[int, int]
) -> tuple[training.Course, chance.Draw]:
    """Two micro-steps of the reference as one batch of two."""
    many = {name: torch.cat([numbers[f"step{k}.{name}"] for k in steps]) for name in
            ("t", "vae_mean", "vae_std", "latents", "noise", "image_embedding")}  # fmt: skip
    with Image.open(GOLDEN / "person_mask.png") as mask:
        found = subject.latent_mask(mask, many["latents"].shape[-2:])
    known = subject.Subject(
        word="face",
        mean=many["vae_mean"],
        std=many["vae_std"],
        mask=found.expand(2, -1, -1, -1),
        image_embedding=many["image_embedding"],
        hashes=(),
    )
    course = training.course(base, known, recipes.settings_for("reference", {}))
    course = replace(
        course, templates=said(base, numbers, "main", steps), open_prompts=said(base, numbers, "open", steps)
    )
    keep, keep_open = (
        torch.stack([(numbers[f"step{k}.{kind}.residual"] != 0).any().double() for k in steps])
        for kind in ("main", "open")
    )
    each = torch.arange(2)
    draw = chance.Draw(
        photo=each,
        t=many["t"],
        posterior=(many["latents"] / SCALING - many["vae_mean"]) / many["vae_std"],
        noise=many["noise"],
        template=each,
        open_prompt=each,
        keep=keep,
        keep_open=keep_open,
    )
    return course, draw


@pytest.fixture(scope="module")
def learned(base: loading.Base, numbers: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Two optimiser steps; what was found by the names of the golden numbers."""
    learner = golden_mapper(numbers)
    optimiser = None
    found: dict[str, Tensor] = {}
    for steps in ((0, 1), (2, 3)):
        course, draw = lesson(base, numbers, steps)
        optimiser = optimiser or training.optimiser_for(learner, course.settings)
        with torch.no_grad():
            dynamic, residual = learner(draw.t, course.subject.image_embedding)
            moment = training.moment(course, learner, draw)
            terms = training.terms(course, moment)
            loss = training.weighted(course, terms)
            share = tandem_equilibrium.shares(moment.attention, moment.open_slots, moment.open_lengths)
        for row, k in enumerate(steps):
            found |= {
                f"step{k}.main.dynamic": dynamic[row],
                f"step{k}.open.dynamic": dynamic[row],
                f"step{k}.main.residual": residual[row] * draw.keep[row],
                f"step{k}.open.residual": residual[row] * draw.keep_open[row],
                f"step{k}.latents": moment.latents[row],
                f"step{k}.noisy_latents": moment.noisy[row],
                f"step{k}.main.keys": moment.keys[row, :ROWS],
                f"step{k}.main.values": moment.values[row, :ROWS],
                f"step{k}.open.length": moment.open_lengths[row].double(),
                f"step{k}.open.attention": moment.attention[row],
                f"step{k}.te.placeholder": share[row],
                f"step{k}.te.strongest": 1 - share[row],
                f"step{k}.noise_hat": moment.prediction[row],
                f"step{k}.loss": loss[row],
            }
        training.advance(training.lesson(course, learner), optimiser, draw)
        for name, weight in learner.named_parameters():
            for kind, tensor in (("grad", weight.grad), ("after", weight.detach())):
                found[f"step{steps[1]}.{kind}.{name}"] = tensor[: 4 if tensor.ndim > 1 else None].clone()
                found[f"step{steps[1]}.{kind}.{name}.norm"] = tensor.norm()
    yield found


def compare(found: dict[str, Tensor], numbers: dict[str, Tensor], *parts: str) -> None:
    names = [name for name in found if name.split(".", 1)[1].startswith(parts) and name in numbers]
    assert len(names) >= 2
    for name in names:
        close(found[name], numbers[name])


def test_mapper(learned: dict[str, Tensor], numbers: dict[str, Tensor]) -> None:
    compare(learned, numbers, "main.dynamic", "main.residual", "open.dynamic", "open.residual")


def test_word_embedding(base: loading.Base, numbers: dict[str, Tensor]) -> None:
    close(sentences.word_embedding(base, "face"), numbers["word_embedding"], 0)


def test_noising(learned: dict[str, Tensor], numbers: dict[str, Tensor]) -> None:
    compare(learned, numbers, "latents", "noisy_latents")


def test_text_conditioning(learned: dict[str, Tensor], numbers: dict[str, Tensor]) -> None:
    compare(learned, numbers, "main.keys", "main.values")


def test_tandem_equilibrium(learned: dict[str, Tensor], numbers: dict[str, Tensor]) -> None:
    compare(learned, numbers, "open.length", "open.attention", "te.placeholder", "te.strongest")


def test_noise_prediction_and_loss(learned: dict[str, Tensor], numbers: dict[str, Tensor]) -> None:
    compare(learned, numbers, "noise_hat", "loss")


def test_gradients(learned: dict[str, Tensor], numbers: dict[str, Tensor]) -> None:
    """Of a batch of two: the reference accumulates the halves of two single ones, which is the same mean."""
    compare(learned, numbers, "grad.")


def test_two_optimiser_steps(learned: dict[str, Tensor], numbers: dict[str, Tensor]) -> None:
    compare(learned, numbers, "after.")


@dataclass(frozen=True)
class Trace:
    """The 50 steps of the engine, each from the reference's latents of that step."""

    timesteps: list[float]
    keys: Tensor  # (50, S, w)
    values: Tensor  # (50, S, w)
    eps: list[Tensor]  # after guidance
    latents_out: list[Tensor]


@pytest.fixture(scope="module")
def trace(base: loading.Base, drawn: dict[str, Tensor]) -> Trace:
    settings = recipes.render_settings_for("reference", {})
    assert (settings.scheduler, settings.steps, settings.guidance) == ("dpm++", 50, 8.0)
    with personamagic.wear(base, golden_persona(base, drawn)) as wording:
        script = rendering.script(base, {"": wording}, "A photo of {} as a cowboy", settings)
    eps, latents_out = run(base, script, settings, drawn)
    rows = torch.stack([script.rows[t] for t in rendering.timesteps(base, settings)])
    return Trace(rendering.timesteps(base, settings), *rows.chunk(2, dim=-1), eps, latents_out)


def golden_persona(base: loading.Base, drawn: dict[str, Tensor]) -> Persona:
    tensors = {"image_embedding": drawn["image_embedding"].numpy()}
    for name, weight in drawn.items():
        if name.startswith("mapper."):
            # The reference had stored its persona in float32 before it drew, all but the layer of the time features.
            stored = weight if "time_input" in name else weight.to(torch.float32).double()
            tensors[name.replace("mapper.", "learner.")] = stored.numpy()
    return Persona("personamagic", "golden", base.fingerprint, "face", REFERENCE_BOUNDS, tensors)


def run(
    base: loading.Base, script: rendering.Script, settings: recipes.RenderSettings, drawn: dict[str, Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """eps and latents after each step of the engine's own loop, in which every step begins at the reference's latents.

    So the UNet and the scheduler are given what the reference's were given, and the difference of the two libraries'
    float32 schedule tables, which a free run amplifies by as much as the random model likes, does not add up.
    """
    eps: list[Tensor] = []
    latents_out: list[Tensor] = []

    def put_in(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (drawn["latents_in"][len(eps)].expand_as(args[0]), *args[1:])

    def take_out(module: nn.Module, args: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        without, with_prompt = output[0].chunk(2)
        eps.append(without + settings.guidance * (with_prompt - without))

    scheduler = type(schedulers.make(settings.scheduler, base.pipeline.scheduler.config))
    step = scheduler.step

    def step_from_reference(self: object, output: Tensor, t: Tensor, sample: Tensor, *rest: object, **more: object):
        close(output, eps[-1], 0)  # what the pipeline makes of guidance is what was taken out
        result = step(self, output, t, drawn["latents_in"][len(latents_out)].expand_as(sample), *rest, **more)
        latents_out.append(result[0].clone())
        return result

    hooks = [base.pipeline.unet.register_forward_pre_hook(put_in), base.pipeline.unet.register_forward_hook(take_out)]
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scheduler, "step", step_from_reference)
            rendering.sample(base, script, drawn["latents_in"][0], settings)
    finally:
        for hook in hooks:
            hook.remove()
    return eps, latents_out


def test_sampler_reads_the_stages_conditions(trace: Trace, drawn: dict[str, Tensor]) -> None:
    assert trace.timesteps == drawn["timesteps"].tolist()
    for row, step in enumerate(drawn["steps"].tolist()):
        close(trace.keys[step, :ROWS], drawn["keys"][row])
        close(trace.values[step, :ROWS], drawn["values"][row])


def test_sampler_noise_prediction(trace: Trace, drawn: dict[str, Tensor]) -> None:
    assert len(trace.eps) == 50
    for found, expected in zip(trace.eps, drawn["eps"], strict=True):
        close(found, expected)


def test_sampler_steps(trace: Trace, drawn: dict[str, Tensor]) -> None:
    """Today's DPM-Solver++ keeps its tables and its latents in float32, hence 1e-6, and ends its schedule otherwise."""
    assert len(trace.latents_out) == 50
    for found, expected in zip(trace.latents_out[:-1], drawn["latents_out"], strict=False):
        close(found, expected, 1e-6)
    close(trace.latents_out[-1], drawn["latents_out"][-1], 1e-3)
