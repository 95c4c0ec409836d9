"""The probe's results on people outside the training set, and the reason for its way to binarise attention maps.

    python -m pmagic.experiments.stages --people 10

One table compares ways to binarise an attention map, each against the exact mask of the drawn face: how reliably the
IoU rises as t falls (Spearman's rank correlation of the IoU with -t), its maximum and its range. Further rows show each
level of the UNet, with the attention normalised over the words or over all text positions. Another table shows each
person's bounds from the probe, with the exact mask and with CLIPSeg's. `--training` uses people of the training range
instead: the thresholds of a base are chosen on them. `--photos snapshots` shows the probe each person to one side,
smaller and tilted, in place of a portrait.
"""

# R rows of a UNet call . h, w of the latents

import argparse
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr
from skimage.filters import threshold_otsu
from torch import Tensor
from torch.nn import functional as F

from pmagic.bases import loading, model_spec
from pmagic.datasets import world
from pmagic.engine import attention, probe, recipes
from pmagic.engine.attention import AttentionMap
from pmagic.engine.probe import GRID, Curve, read_bounds
from pmagic.engine.subject import encode_photos
from pmagic.experiments.measuring import TRAINING
from pmagic.persona import StageBounds
from pmagic.world.drawing import draw
from pmagic.world.people import HELD_OUT, person
from pmagic.world.scenes import PORTRAIT

SIDE = 256
WORD = "face"
FIRST = {"held out": HELD_OUT + 100, "training": TRAINING}  # seeds


def _as_many(maps: Tensor, mask: Tensor) -> Tensor:
    """The brightest cells of each map, as many as its mask has."""
    rank = maps.flatten(1).argsort(dim=1, descending=True).argsort(dim=1)
    return (rank < mask.flatten(1).sum(dim=1, keepdim=True)).view_as(mask)


def _above_half(maps: Tensor, mask: Tensor) -> Tensor:
    return maps > (maps.amin(dim=(1, 2), keepdim=True) + maps.amax(dim=(1, 2), keepdim=True)) / 2


def _otsu(maps: Tensor, mask: Tensor) -> Tensor:
    return maps > torch.tensor([threshold_otsu(each.numpy()) for each in maps])[:, None, None]


PROBES_OWN = "above the mean"
# (R, h, w) maps and masks to bool cells
BINARISATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    PROBES_OWN: lambda maps, mask: probe.binarize(maps),
    "as many cells as the mask": _as_many,
    "above half of the range": _above_half,
    "Otsu": _otsu,
}


@dataclass(frozen=True)
class Found:
    """The results of one person."""

    seed: int
    curves: dict[str, Curve]  # by binarisation, or by level and tokens, against the exact mask
    own: Curve  # the probe's own curve, with CLIPSeg's mask
    bounds: dict[str, tuple[StageBounds, str]]  # by source of the mask: bounds, and the reason for a fallback


@cache
def _base(name: str) -> loading.Base:
    return loading.load(model_spec.resolve(name))


def measure(name: str, seed: int, photos: str = world.PORTRAITS) -> Found:
    torch.set_num_threads(1)  # one person per core
    base = _base(name)
    settings = recipes.settings_for(recipes.DEFAULT, base.spec.defaults)
    scene = PORTRAIT if photos == world.PORTRAITS else world.snapshot(seed)
    drawing = draw([(person(seed), scene)], side=SIDE)
    photo, hashes = Image.fromarray(drawing.image), [f"{seed:064x}"]
    exact = encode_photos(base, [photo], hashes, word=WORD, mask=Image.fromarray(drawing.mask))
    context, learner = probe.train_briefly(base, exact, settings)
    mask = probe.outline_subject(exact.mask[probe.photo_of_row(exact)][:, 0])
    points: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for t in GRID:
        words, everywhere = (probe.attention_maps(context, learner, t, words_alone=each) for each in (True, False))
        maps = attention.average(words, (mask.shape[-2], mask.shape[-1]))
        for way, binarised in BINARISATIONS.items():
            points[way].append((t, float(probe.overlap(binarised(maps, mask), mask).mean())))
        for tokens, looks in (("the words", words), ("all positions", everywhere)):
            for side, maps in _by_level(looks, mask).items():
                iou = probe.overlap(probe.binarize(maps), mask).mean()
                points[f"{side} x {side} cells, {tokens}"].append((t, float(iou)))
    curves = {way: tuple(each) for way, each in points.items()}
    by_probe = probe.probe(base, encode_photos(base, [photo], hashes, word=WORD), settings)
    bounds = {
        "exact": read_bounds(curves[PROBES_OWN], settings),
        "CLIPSeg": (by_probe.bounds, by_probe.fallback_reason),
    }
    return Found(seed, curves, by_probe.curve, bounds)


def _by_level(looks: Sequence[AttentionMap], mask: Tensor) -> dict[int, Tensor]:
    """The mean map (R, h, w) over the layers of each side, enlarged to the mask's size."""
    levels: dict[int, list[Tensor]] = defaultdict(list)
    for each in looks:
        enlarged = F.interpolate(each.weights[:, None], size=mask.shape[-2:], mode="bilinear")
        levels[each.weights.shape[-1]].append(enlarged[:, 0])
    return {side: torch.stack(maps).mean(dim=0) for side, maps in levels.items()}


def rise(curve: Curve) -> float:
    """Spearman's correlation of the IoU with -t, 1 if it rises at every step as t falls."""
    found = spearmanr([-t for t, _ in curve], [iou for _, iou in curve])
    return float(cast(Any, found).statistic)


def _binarisation_table(people: list[Found]) -> Iterator[str]:
    yield "| binarised | Spearman, median | lowest | IoU at t = 975 | 475 | 25 | highest |"
    yield "|---|---|---|---|---|---|---|"
    rows = {way: [each.curves[way] for each in people] for way in people[0].curves}
    rows["the probe, with CLIPSeg's mask"] = [each.own for each in people]
    for way, curves in rows.items():
        rises = [rise(each) for each in curves]
        ious = np.array([[iou for _, iou in each] for each in curves])
        means = ious.mean(axis=0)
        yield (
            f"| {way} | {np.median(rises):.2f} | {min(rises):.2f} | {means[0]:.2f} | {means[GRID.index(475)]:.2f} "
            f"| {means[-1]:.2f} | {ious.max(axis=1).mean():.2f} |"
        )


def _bounds_table(people: list[Found]) -> Iterator[str]:
    yield "| person | bounds, exact mask | bounds, CLIPSeg's mask | Spearman | IoU (monotone) from t = 975 to 25 |"
    yield "|---|---|---|---|---|"
    for each in people:
        told = [f"{b.low}:{b.high}{f' ({why})' if why else ''}" for b, why in each.bounds.values()]
        ious = " ".join(f"{iou:.2f}" for iou in probe.isotonic(each.own)[::3])
        yield f"| {each.seed} | {' | '.join(told)} | {rise(each.own):.2f} | {ious} |"


def report(name: str, people: int, whose: str, photos: str, cores: int) -> str:
    """Both tables as Markdown."""
    seeds = [FIRST[whose] + k for k in range(people)]
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        everyone = list(pool.map(measure, [name] * people, seeds, [photos] * people))
    return "\n".join([*_binarisation_table(everyone), "", *_bounds_table(everyone)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--base", default="mini")
    parser.add_argument("--training", action="store_true", help="people of the training range")
    parser.add_argument("--photos", choices=world.PHOTOS, default=world.PORTRAITS)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    whose = "training" if arguments.training else "held out"
    print(report(arguments.base, arguments.people, whose, arguments.photos, arguments.cores))
