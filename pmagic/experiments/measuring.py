"""Shared by all measurements of the miniature: people outside the training set, a base, the evaluation's networks."""

from argparse import ArgumentParser
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from PIL import Image

from pmagic.bases import model_spec
from pmagic.bases.loading import Base, load
from pmagic.evaluation.observers import Observers, observers
from pmagic.world.drawing import draw
from pmagic.world.people import HELD_OUT, person
from pmagic.world.scenes import PORTRAIT

FIRST = HELD_OUT + 200
TRAINING = 30_000  # first seed for measurements on the training range; training saw these people a few times at most
WORD = "face"
SIDE = 256


def portrait(seed: int) -> Image.Image:
    """The photo from which a person is learned."""
    return Image.fromarray(draw([(person(seed), PORTRAIT)], side=SIDE).image)


@cache
def open_base(name: str = "mini") -> Base:
    return load(model_spec.resolve(name))


@cache
def eyes(name: str = "mini") -> Observers:
    """The CLIP of the base of that name, trained separately from it, and a recogniser that no loss uses."""
    return observers(model_spec.resolve(name), "cpu")


def require(parser: ArgumentParser, weights: Path, parts: Iterable[str]) -> None:
    """End the command with one message if the folder of trained weights lacks one of these parts."""
    for part in parts:
        if not (weights / part).is_dir():
            parser.error(f"{weights} has no folder {part}: give a folder of trained weights, or none")
