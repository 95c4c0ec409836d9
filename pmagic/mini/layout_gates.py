"""Measures whether a base in training has learned the layout words. Its noise predictions show it long before pictures.

    python -m pmagic.mini.train_base WORK --gates

Snapshots of people outside the training set are noised. The noise is predicted twice: with the picture's own caption,
and with a caption in which one layout word (the side or the framing) is exchanged. The growth of the error measures
what the word contributes. A training has to pass these gates: framing above +5 % after 25,000 samples, sides above
+1 % after 100,000.
"""

# N pictures

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from pmagic.mini import train_vae
from pmagic.mini.base_material import NAMES_A_CAPTION, Captions, read, scaling
from pmagic.mini.base_networks import NAME_TOKENS, WIDTH, Networks, noise_schedule
from pmagic.world.captions import snapshot_caption
from pmagic.world.drawing import draw
from pmagic.world.layouts import FRAMINGS, framing_of, layout, mirror
from pmagic.world.people import HELD_OUT, person, trait_vector
from pmagic.world.scenes import MARK, Scene, rng_for
from pmagic.world.snapshots import snapshot
from pmagic.world.versions import WORLDS

FIRST = HELD_OUT + 12_000
TIMES = (600, 800, 950)
PICTURES = 48
FILE = "gates.jsonl"
_SCENES, _CAPTIONS = 110, 111  # keys of random numbers


@dataclass(frozen=True)
class Gate:
    """The relative growth of the error at a timestep with the wrong word, and its standard error over pictures."""

    word: str
    t: int
    growth: float
    error: float


@dataclass(frozen=True)
class Question:
    """N pictures (N, side, side, 3), each with the right caption and with one layout word exchanged."""

    images: np.ndarray
    seeds: tuple[int, ...]
    right: tuple[str, ...]
    wrong: tuple[str, ...]


def _sides(where: Scene, k: int) -> tuple[Scene, Scene]:
    """A person at the left or the right, and the mirrored scene."""
    framing = ("bust", "half", "full")[k % 3]
    here = replace(where, **layout(rng_for(_SCENES, k, 1), framing, ("left", "right")[k // 3 % 2]))
    return here, mirror(here)


def _framings(where: Scene, k: int) -> tuple[Scene, Scene]:
    """A person in the middle, and the same scene in another framing that has a word."""
    framings = ("close", "half", "full")
    rng = rng_for(_SCENES, k, 1)
    here = replace(where, **layout(rng, framings[k % 3], "middle"))
    assert framing_of(here) in FRAMINGS
    return here, replace(here, **layout(rng, framings[(k + 1 + k // 3 % 2) % 3], "middle"))


@cache
def question(word: str) -> Question:
    """word: "side" or "framing"."""
    images, seeds, texts = [], [], []
    for k in range(PICTURES):
        who, where = FIRST + k, replace(snapshot(rng_for(_SCENES, k)), style="photo")
        both = {"side": _sides, "framing": _framings}[word](where, k)
        images.append(draw([(person(who), both[0])], side=WORLDS[2].side).image)
        seeds.append(who)
        say = partial(snapshot_caption, person(who), name=MARK, layout_share=1)
        texts.append([say(where=each, rng=rng_for(_CAPTIONS, k)) for each in both])
    right, wrong = zip(*texts, strict=True)
    return Question(np.stack(images), tuple(seeds), right, wrong)


@torch.no_grad()
def measure(networks: Networks, work: Path) -> Iterator[Gate]:
    """Measure each word at each of `TIMES`. work: holds the autoencoder that the networks were trained with."""
    tokenizer = CLIPTokenizer.from_pretrained(work / "base" / "tokenizer")
    vae, noising = train_vae.load_trained(work), noise_schedule()
    for word in ("framing", "side"):
        asked = question(word)
        latents = train_vae.encode(vae, train_vae.as_tensor(asked.images)).mean * scaling(work)
        traits = torch.zeros(PICTURES, NAMES_A_CAPTION, len(trait_vector(person(0))))
        traits[:, 0] = torch.from_numpy(np.stack([trait_vector(person(seed)) for seed in asked.seeds]))
        states = [_states(networks, read(tokenizer, list(texts)), traits) for texts in (asked.right, asked.wrong)]
        for time in TIMES:
            t = torch.full((PICTURES,), time)
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(time))
            noisy = noising.add_noise(latents, noise, t)
            right, wrong = ((networks.unet(noisy, t, each).sample - noise).square().mean((1, 2, 3)) for each in states)
            growth = (wrong - right) / right.mean()
            yield Gate(word, time, growth.mean().item(), (growth.std() / PICTURES**0.5).item())


def _states(networks: Networks, said: Captions, traits: Tensor) -> Tensor:
    still = torch.zeros(len(traits), NAMES_A_CAPTION * NAME_TOKENS, WIDTH)
    return networks.say(said.ids.long(), said.placeholder_index.long(), traits, still)


def table(gates: Iterator[Gate]) -> Iterator[str]:
    yield "| word exchanged | t | the error grows by |"
    yield "|---|---|---|"
    yield from (f"| {each.word} | {each.t} | {each.growth:+.2%} ± {each.error:.2%} |" for each in gates)


def record(work: Path, networks: Networks, samples: int) -> None:
    """Measure, print, and append a line to WORK/gates.jsonl. samples: the number trained on so far in this run."""
    gates = list(measure(networks, work))
    told = "  ".join(f"{each.word} at {each.t} {each.growth:+.2%}" for each in gates)
    print(f"gates  {samples} samples  {told}", flush=True)
    with (work / FILE).open("a") as kept:
        kept.write(json.dumps({"samples": samples, **{f"{each.word} {each.t}": each.growth for each in gates}}) + "\n")
