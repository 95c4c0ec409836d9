"""Whether tandem equilibrium works as claimed: the name leaves attention to the other words, and garments show.

    python -m pmagic.experiments.equilibrium --people 10

Each held-out person is learned with several weights of the loss, in the same stages and with the same seed. Prompts
with a garment then measure: the text encoder's last self-attention to the name's strongest token and to the strongest
other word (mean over heads and queries), the name's share p of Eq. 1, and the share of pictures whose own garment CLIP
picks among all. People are spread over the processor's cores.
"""

# B batch . H heads . S text positions

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from types import MappingProxyType

import numpy as np
import torch
from PIL import Image

from pmagic.bases import loading
from pmagic.engine import probe, token_batch
from pmagic.engine.conditioning import encode
from pmagic.engine.recipes import LearnSettings, render_settings_for, settings_for
from pmagic.engine.rendering import render
from pmagic.engine.subject import Subject, encode_photos
from pmagic.experiments.measuring import FIRST, WORD, eyes, open_base, portrait
from pmagic.losses import tandem_equilibrium
from pmagic.methods import personamagic
from pmagic.persona import Persona
from pmagic.world.scenes import OUTFITS

WEIGHTS = (0.0, 0.001, 0.01, 0.1, 1.0)
PROMPTS = tuple(f"a photo of {{}} {words}" for words in OUTFITS.values())


@dataclass(frozen=True, kw_only=True)
class Row:
    """One person learned with one weight of the loss; values are means over the prompts."""

    weight: float
    name: float  # attention to the name's strongest token, range [0, 1]
    other: float  # attention to the strongest other word
    share: float  # p
    shown: float  # share of pictures that show the garment
    identity: float  # cosine similarity to the portrait in the evaluation's recogniser, -1 without a face


def measure(seed: int, weights: Sequence[float]) -> list[Row]:
    """One row per weight, for one person."""
    torch.set_num_threads(1)  # one person per core
    base, photo = open_base(), portrait(seed)
    subject = encode_photos(base, [photo], [f"{seed:064x}"], word=WORD)
    settings = settings_for("paper", base.spec.defaults)
    settings = replace(settings, bounds=probe.probe(base, subject, settings).bounds)
    rows = []
    for weight in weights:
        losses = MappingProxyType({**settings.losses, "tandem_equilibrium": weight})
        persona = personamagic.learn(base, subject, replace(settings, losses=losses))
        name, other, share = _attention(base, subject, persona, settings)
        shown, identity = _pictures(base, persona, photo)
        rows.append(Row(weight=weight, name=name, other=other, share=share, shown=shown, identity=identity))
        print(f"person {seed}  weight {weight:g}  name {name:.3f}  other {other:.3f}  shown {shown:.0%}", flush=True)
    return rows


@torch.no_grad()
def _attention(
    base: loading.Base, subject: Subject, persona: Persona, settings: LearnSettings
) -> tuple[float, float, float]:
    """Attention to the name and to the strongest other word, and p: means over prompts, in the interval's middle."""
    said = token_batch.tokens_with_name(base, PROMPTS, settings.tokens)
    learner = personamagic.mapper_of(base, persona)[0]
    middle = torch.full((len(PROMPTS),), (persona.bounds.low + persona.bounds.high) // 2)
    dynamic, _ = learner(middle, subject.image_embedding.expand(len(PROMPTS), -1))
    found = encode(
        base.pipeline.text_encoder, said.ids, said.placeholder_index, dynamic, None, with_attention=True
    ).attention
    assert found is not None  # attention was requested
    received = found.mean(dim=(1, 2))  # (B, S)
    inside = torch.arange(received.shape[1]) <= said.lengths[:, None]
    inside[:, 0] = False
    name = received.masked_fill(~(inside & (said.placeholder_index >= 0)), 0).amax(dim=1)
    other = received.masked_fill(~(inside & (said.placeholder_index < 0)), 0).amax(dim=1)
    share = tandem_equilibrium.shares(found, said.placeholder_index, said.lengths)
    return float(name.mean()), float(other.mean()), float(share.mean())


def _pictures(base: loading.Base, persona: Persona, photo: Image.Image) -> tuple[float, float]:
    """The share of pictures whose garment CLIP picks among all, and the mean identity."""
    drawing = render_settings_for("paper", base.spec.defaults)
    texts, likeness = [prompt.replace("{}", WORD) for prompt in PROMPTS], eyes().face(photo)
    hits, identities = [], []
    for number, prompt in enumerate(PROMPTS):
        (picture,) = render(base, persona, prompt, [number], drawing)
        hits.append(int(eyes().clip_similarity([picture], texts)[0].argmax()) == number)
        seen = eyes().face(picture)
        identities.append(-1.0 if seen is None or likeness is None else float(seen @ likeness))
    return float(np.mean(hits)), float(np.mean(identities))


def report(people: int, weights: Sequence[float]) -> str:
    """The table as Markdown; the standard error is over people."""
    seeds = [FIRST + k for k in range(people)]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        rows = [row for each in pool.map(measure, seeds, [weights] * people) for row in each]
    lines = ["| weight of L_te | attention to the name | to the strongest other word | p | garment shown | identity |"]
    lines.append("|---|---|---|---|---|---|")
    for weight in weights:
        mine = [row for row in rows if row.weight == weight]
        error = np.std([row.shown for row in mine], ddof=1) / len(mine) ** 0.5 if len(mine) > 1 else float("nan")
        means = {field: np.mean([getattr(row, field) for row in mine]) for field in Row.__dataclass_fields__}
        lines.append(
            f"| {weight:g} | {means['name']:.3f} | {means['other']:.3f} | {means['share']:.3f} "
            f"| {means['shown']:.0%} ± {error:.0%} | {means['identity']:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--weights", type=float, nargs="+", default=WEIGHTS)
    arguments = parser.parse_args()
    print(report(arguments.people, arguments.weights))
