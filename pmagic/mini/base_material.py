"""The base's training data: a corpus as latents and token ids, with the traits of the people its captions name."""

# N rows of the corpus . S text positions . V traits . h, w of the latents

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTokenizer

from pmagic.mini import corpus, train_vae, vocabulary
from pmagic.mini.base_networks import NAME_TOKENS
from pmagic.mini.training import CPU, autocast
from pmagic.world.layouts import side_of
from pmagic.world.people import person, trait_vector
from pmagic.world.scenes import MARK, Scene, empty_prompt, rng_for

NAMES_A_CAPTION = 2
ENCODED = 20  # pictures encoded at once; in batches of 200 a CPU takes nearly twice as long per picture
SCALING = "scaling.json"


@dataclass(frozen=True)
class Captions:
    """Tokenized captions. N rows: ids and placeholder_index (N, S), lengths (N,) of the start token and the words."""

    ids: Tensor
    placeholder_index: Tensor  # -1, or the index of the caption's name embedding at this position
    lengths: Tensor

    def rows(self, rows: Tensor) -> "Captions":
        return Captions(self.ids[rows], self.placeholder_index[rows], self.lengths[rows])

    def where(self, chosen: Tensor, other: "Captions") -> "Captions":
        """Select these rows where `chosen` (N,) is true and those of `other` elsewhere."""
        ids, placeholder_index = (
            torch.where(chosen.unsqueeze(1), a, b)
            for a, b in ((self.ids, other.ids), (self.placeholder_index, other.placeholder_index))
        )
        return Captions(ids, placeholder_index, torch.where(chosen, self.lengths, other.lengths))

    def to(self, place: torch.device) -> "Captions":
        return Captions(self.ids.to(place), self.placeholder_index.to(place), self.lengths.to(place))


def read(tokenizer: CLIPTokenizer, texts: list[str]) -> Captions:
    """Tokenize captions; each mark becomes `NAME_TOKENS` positions, filled with the plain word's id."""
    wide = CLIPTokenizer.from_pretrained(tokenizer.name_or_path)
    wide.add_tokens([MARK])
    mark, word = len(tokenizer), cast(int, tokenizer.convert_tokens_to_ids("face</w>"))
    texts = [text.replace(MARK, " ".join([MARK] * NAME_TOKENS)) for text in texts]
    given = {"padding": "max_length", "truncation": True, "max_length": vocabulary.LENGTH, "return_tensors": "pt"}
    ids = wide(texts, **given).input_ids
    marked = ids == mark
    placeholder_index = torch.where(marked, marked.cumsum(1) - 1, -1).to(torch.int8)
    lengths = (ids != tokenizer.eos_token_id).sum(1)
    return Captions(torch.where(marked, word, ids).to(torch.int32), placeholder_index, lengths)


@dataclass(frozen=True, kw_only=True)
class Material:
    """latents (N, 4, h, w) float16 scaled to unit deviation; faces (N, 1, h, w) share of face per cell."""

    latents: Tensor
    faces: Tensor
    said: Captions
    traits: Tensor  # (N, NAMES_A_CAPTION, V), of the people whom the captions name by embeddings
    empty: Captions  # empty prompts, for captions that are dropped
    # Set if rows 2k and 2k + 1 are twins: captions that always state the layout; captions that state little else; and
    # the rows (K,) of first twins whose short caption states the side.
    layouts: Captions | None = None
    shorts: Captions | None = None
    sided: Tensor | None = None


@torch.no_grad()
def latents_of(work: Path, images: np.ndarray, vae: AutoencoderKL, place: torch.device = CPU) -> np.ndarray:
    """Encode the pictures to latents (N, 4, h, w) float16. `work` caches them, and only new pictures are encoded."""
    file = work / "latents.npy"
    parts = [np.load(file)] if file.exists() else []
    first = len(parts[0]) if parts else 0
    cast(nn.Module, vae).to(place)
    for start in range(first, len(images), ENCODED):
        with autocast(place):
            pixels = train_vae.as_tensor(images[start : start + ENCODED]).to(place)
            parts.append(train_vae.encode(vae, pixels).mean.half().cpu().numpy())
    latents = np.concatenate(parts)
    if len(latents) > first:
        np.save(file, latents)
    return latents


@torch.no_grad()
def material(work: Path, vae: AutoencoderKL, tokenizer: CLIPTokenizer, place: torch.device = CPU) -> Material:
    """Load the corpus as the networks read it, on the device `place`."""
    data = corpus.load(work / "corpus")
    raw = torch.from_numpy(latents_of(work, data.images, vae, place))
    faces = torch.from_numpy(np.asarray(data.masks)).unfold(1, 4, 4).unfold(2, 4, 4).half().mean((-1, -2)) / 255
    rng = rng_for(3)
    empty = read(tokenizer, [empty_prompt(rng) for _ in range(2000)])
    traits = np.zeros((len(data.marked), NAMES_A_CAPTION, len(trait_vector(person(0)))), np.float32)
    for row, seeds in zip(traits, data.marked, strict=True):
        for which, seed in enumerate(seeds):
            row[which] = trait_vector(person(seed))
    layouts = shorts = None
    if data.version > 1:
        layouts, shorts = _twins(tokenizer, data, place)
    return Material(
        latents=(raw * scaling(work)).to(place),
        faces=faces.unsqueeze(1).to(place),
        said=read(tokenizer, data.captions).to(place),
        traits=torch.from_numpy(traits).to(place),
        empty=empty.to(place),
        layouts=layouts,
        shorts=shorts,
        sided=None if layouts is None else find_sided(data).to(place),
    )


def _twins(tokenizer: CLIPTokenizer, data: corpus.Corpus, place: torch.device) -> Iterator[Captions]:
    yield from (read(tokenizer, texts).to(place) for texts in (data.layout_captions, data.short_captions))


def find_sided(data: corpus.Corpus) -> Tensor:
    """Rows (K,) of the first of two twins that show one person at the left or the right."""
    twins = range(0, len(data.people) - 1, 2)
    return torch.tensor([k for k in twins if data.people[k] >= 0 and side_of(Scene(**data.scenes[k])) != "middle"])


def scaling(work: Path) -> float:
    """The factor that scales the latents to unit deviation, the same for any corpus of at least 50,000 pictures.

    A base that starts from finished weights keeps their factor, which is then stored in `work`.
    """
    if (work / SCALING).exists():
        return float(json.loads((work / SCALING).read_text())["scaling_factor"])
    return 1 / float(np.load(work / "latents.npy", mmap_mode="r")[:50_000:50].astype(np.float32).std())


def cells(work: Path) -> int:
    """The side of the latents, in cells."""
    return np.load(work / "latents.npy", mmap_mode="r").shape[-1]
