"""Runs the probe on snapshots while a base is being trained: the second gate of World 2.

    python -m pmagic.experiments.probe_gate WORK/base --people 12

Each person of the training range is shown as a bust somewhere in the picture. The probe runs 100 steps for each, and
its attention is compared with the exact mask. After 20,000 samples the median of Spearman's correlation of the IoU with
-t should be above 0.9, and the IoU should rise by more than 0.3.
"""

import argparse
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from pmagic.bases import loading, model_spec
from pmagic.engine import attention, probe, recipes
from pmagic.engine.probe import GRID, Curve
from pmagic.engine.subject import encode_photos
from pmagic.experiments.measuring import SIDE, TRAINING, WORD
from pmagic.experiments.stages import rise
from pmagic.world.drawing import draw
from pmagic.world.layouts import layout, random_side
from pmagic.world.people import person
from pmagic.world.scenes import rng_for
from pmagic.world.snapshots import PORTRAIT_TILT, portrait

_LAYOUTS = 112  # key of random numbers


def curve(base: loading.Base, seed: int) -> Curve:
    """IoU of the name's attention with the face, at falling timesteps."""
    rng = rng_for(_LAYOUTS, seed)
    where = replace(portrait(seed), **layout(rng, "bust", random_side(rng, "bust"), PORTRAIT_TILT))
    drawing = draw([(person(seed), where)], side=SIDE)
    photo, mask = Image.fromarray(drawing.image), Image.fromarray(drawing.mask)
    subject = encode_photos(base, [photo], [f"{seed:064x}"], word=WORD, mask=mask)
    context, learner = probe.train_briefly(base, subject, recipes.settings_for("paper", base.spec.defaults))
    exact = probe.outline_subject(subject.mask[probe.photo_of_row(subject)][:, 0])
    points = []
    for t in GRID:
        seen = probe.attention_maps(context, learner, t, words_alone=True)
        maps = attention.average(seen, (exact.shape[-2], exact.shape[-1]))
        points.append((t, float(probe.overlap(probe.binarize(maps), exact).mean())))
    return tuple(points)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="a name, or the folder of a pipeline")
    parser.add_argument("--people", type=int, default=12)
    arguments = parser.parse_args()
    opened = loading.load(model_spec.resolve(arguments.base))
    torch.set_num_threads(1)
    print("| person | Spearman | IoU at t = 975 | 725 | 475 | 25 |\n|---|---|---|---|---|---|")
    curves = []
    for seed in range(TRAINING, TRAINING + arguments.people):
        curves.append(curve(opened, seed))
        ious = dict(curves[-1])
        told = " | ".join(f"{ious[t]:.2f}" for t in (975, 725, 475, 25))
        print(f"| {seed} | {rise(curves[-1]):.2f} | {told} |", flush=True)
    rises = [rise(each) for each in curves]
    higher = [each[-1][1] - each[0][1] for each in curves]
    print(f"median Spearman {np.median(rises):.2f}, median rise {np.median(higher):+.2f}")
