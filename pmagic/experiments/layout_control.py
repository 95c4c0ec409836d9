"""Layout control: how often a picture shows one face, in the framing and on the side that its prompt asks for.

    python -m pmagic.experiments.layout_control WORK/base --pictures 16

The base draws its plain word, without a persona. The miniature's own detector measures the face's position and size; no
network trained on captions is involved. The world's own drawings are measured as well, because the detector also errs
on them.
"""

# N pictures

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from pmagic.bases import loading, model_spec
from pmagic.engine.face_selection import folder_of
from pmagic.engine.recipes import render_settings_for
from pmagic.engine.rendering import render
from pmagic.experiments.measuring import FIRST, WORD
from pmagic.mini.gallery import BOTTOM, TOP
from pmagic.vision import faces
from pmagic.world.captions import FRAMING_TAILS, SIDE_TAILS
from pmagic.world.drawing import draw
from pmagic.world.layouts import framing_of, layout, side_of
from pmagic.world.people import person
from pmagic.world.scenes import Scene, rng_for
from pmagic.world.versions import WORLDS

# The layout words of the prompts, and their meanings.
FRAMINGS = {words: framing for framing, told in FRAMING_TAILS.items() for words in told}
SIDES = {words: side for side, words in SIDE_TAILS.items()}
_SCENES = 113  # key of random numbers


@dataclass(frozen=True)
class Shares:
    """Shares of N pictures, range [0, 1]."""

    one_face: float
    obeyed: float  # the face (the largest if there are several) has the layout that the words ask for


def inspect_face(pack: faces.FacePack, picture: Image.Image) -> tuple[int, str, str]:
    """The number of faces, and framing and side of the largest; "" without a face."""
    every = pack.find(picture)
    if not every:
        return 0, "", ""
    top, bottom = every[0].box[1], every[0].box[3]
    eyes = every[0].landmarks[:2].mean(axis=0)
    where = Scene(x=float(eyes[0]) / picture.width, scale=(bottom - top) / (BOTTOM - TOP) / picture.height)
    return len(every), framing_of(where), side_of(where)


def shares(pack: faces.FacePack, pictures: list[Image.Image], asked: str) -> Shares:
    """asked: a framing or a side."""
    answers = [inspect_face(pack, picture) for picture in pictures]
    return Shares(
        float(np.mean([count == 1 for count, _, _ in answers])),
        float(np.mean([asked in (framing, side) for _, framing, side in answers])),
    )


def drawings(asked: str, count: int) -> list[Image.Image]:
    """The world's drawings of a framing (in the middle) or of a side (as a bust), one person per picture."""
    pictures = []
    for k in range(count):
        framing, side = (asked, "middle") if asked in FRAMINGS.values() else ("bust", asked)
        where = Scene(body=True, seed=k, **layout(rng_for(_SCENES, k), framing, side))
        image = draw([(person(FIRST + k), where)], side=WORLDS[2].side).image
        pictures.append(Image.fromarray(image))
    return pictures


def measure(base: loading.Base, pack: faces.FacePack, count: int) -> Iterator[tuple[str, Shares, Shares]]:
    """Each prompt's layout words, with the shares of the world's pictures and of the base's."""
    settings = render_settings_for("paper", base.spec.defaults)
    for words, asked in {**FRAMINGS, **SIDES}.items():
        rendered = list(render(base, None, f"a photo of a {{}} {words}", range(count), settings, word=WORD))
        yield words, shares(pack, drawings(asked, count), asked), shares(pack, rendered, asked)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="a name, or the folder of a pipeline")
    parser.add_argument("--pictures", type=int, default=16, help="of each prompt")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = model_spec.resolve(arguments.base)
    opened, detector = loading.load(model), faces.load(folder_of(model))
    print("| words | one face, world | obeyed | one face, base | obeyed |\n|---|---|---|---|---|")
    for words, world, own in measure(opened, detector, arguments.pictures):
        told = " | ".join(f"{each.one_face:.0%} | {each.obeyed:.0%}" for each in (world, own))
        print(f"| {words} | {told} |", flush=True)
