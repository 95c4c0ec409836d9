"""Writes the sample pictures that are shipped: three people outside the training set, a cat, one style, a background.

python -m pmagic.mini.samples
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from pmagic.world.drawing import draw
from pmagic.world.people import HELD_OUT, person
from pmagic.world.scenes import PORTRAIT
from pmagic.world.things import Thing

PEOPLE = {"alice": HELD_OUT + 62, "bruno": HELD_OUT + 56, "chiara": HELD_OUT + 53}
CAT = Thing(kind="cat", colour="orange", pattern="striped", accent=(150, 90, 50), eyes=(90, 170, 80), tall=1.0)
STYLE, STYLE_PLACES, STYLE_PERSON = "pencil", ("beach", "library", "yellow"), HELD_OUT + 1
PORTRAITS, EXAMPLES = (Path(__file__).parent / name for name in ("portraits", "examples"))
SIDE = 256


def samples() -> Iterator[tuple[Path, np.ndarray]]:
    """The file and RGB picture (height, width, 3) uint8 of every sample."""
    for name, seed in PEOPLE.items():
        yield PORTRAITS / f"{name}.png", draw([(person(seed), PORTRAIT)], side=SIDE).image
    yield EXAMPLES / "cat.png", draw([], (CAT, replace(PORTRAIT, place="blue")), SIDE).image
    for number, place in enumerate(STYLE_PLACES, start=1):
        scene = replace(PORTRAIT, style=STYLE, place=place, seed=9)
        yield EXAMPLES / f"{STYLE}-{number}.png", draw([(person(STYLE_PERSON + number), scene)], side=SIDE).image
    city = draw([], (None, replace(PORTRAIT, place="city")), side=128).image
    yield EXAMPLES / "city.png", city[-64:]  # 128 x 64: what is drawn into a background of this size takes seconds


if __name__ == "__main__":
    for path, picture in samples():
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path, optimize=True)
