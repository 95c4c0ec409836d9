"""A second training set, drawn at 128 pixels and of more people, for the networks that recognise faces.

    python -m pmagic.mini.gallery WORK --pictures 20000

Each picture comes with the five landmarks and the box of every face in it. No person with a seed of `HELD_OUT` or above
appears in it.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pmagic.world.drawing import Drawing, draw
from pmagic.world.people import HELD_OUT, person
from pmagic.world.scenes import Scene, pair_scenes, rng_for, scene
from pmagic.world.things import thing

SIDE = 128
PEOPLE = 4500  # seeds 0..4499
PAIRS, THINGS = 0.1, 0.15  # shares of the pictures; the others show one person
# A face from the hairline to the chin, in units of half a head's height, around the point between the eyes.
LEFT, TOP, RIGHT, BOTTOM = -0.86, -1.0, 0.86, 1.06


@dataclass(frozen=True)
class Sighting:
    """One picture and the faces in it. Lengths are shares of the picture's side."""

    drawing: Drawing
    people: tuple[int, ...]  # seeds, from left to right; () for a picture without a face
    boxes: np.ndarray  # (faces, 4): left, top, right, bottom


def boxes(scenes: Sequence[Scene]) -> np.ndarray:
    """The boxes of these scenes' faces: (faces, 4) in shares of the side."""
    frame = np.array([LEFT, TOP, RIGHT, BOTTOM])
    places = [np.array([s.x, s.y, s.x, s.y]) + s.scale * frame for s in scenes]
    return np.array(places, np.float32).reshape(-1, 4)


def boxes_of(landmarks: list, where: dict) -> np.ndarray:
    """The boxes in a picture of the corpus, which stores one scene: both people of a pair have its height and scale."""
    first = Scene(**where)
    columns = (first.x,) if len(landmarks) == 1 else (first.x, 1 - first.x)
    return boxes([Scene(x=x, y=first.y, scale=first.scale) for x in columns[: len(landmarks)]])


def sighting(rng: np.random.Generator, first: int, people: int, side: int = SIDE) -> Sighting:
    """Draw a random picture: people with the seeds `first` to `first + people - 1`, a thing, or an empty place."""
    kind = rng.random()
    if kind < THINGS:
        where, what = scene(rng), (None, "cat", "cup")[int(rng.integers(3))]
        return Sighting(draw([], (thing(rng, what) if what else None, where), side), (), boxes([]))
    scenes = pair_scenes(rng) if kind < THINGS + PAIRS else (scene(rng),)
    seeds = tuple(first + int(s) for s in rng.integers(0, people, len(scenes)))
    figures = [(person(s), where) for s, where in zip(seeds, scenes, strict=True)]
    return Sighting(draw(figures, side=side), seeds, boxes(scenes))


@dataclass(frozen=True)
class Gallery:
    """images (N, 128, 128, 3) uint8; people, landmarks and boxes: N lists with one entry per face."""

    images: np.ndarray
    people: list[list[int]]
    landmarks: list[np.ndarray]  # each (faces, 5, 2)
    boxes: list[np.ndarray]  # each (faces, 4)


def make(folder: Path, pictures: int) -> None:
    """Draw the set into `folder`, unless it is already there."""
    if (folder / "rows.json").exists():
        return
    assert PEOPLE <= HELD_OUT
    folder.mkdir(parents=True, exist_ok=True)
    images = np.lib.format.open_memmap(
        folder / "images.npy", mode="w+", dtype=np.uint8, shape=(pictures, SIDE, SIDE, 3)
    )
    rows = []
    for k in range(pictures):
        seen = sighting(rng_for(2, k), 0, PEOPLE)
        images[k] = seen.drawing.image
        known = {"people": seen.people, "landmarks": seen.drawing.landmarks.tolist(), "boxes": seen.boxes.tolist()}
        rows.append(known)
    images.flush()
    (folder / "rows.json").write_text(json.dumps(rows))


def load(folder: Path) -> Gallery:
    rows = json.loads((folder / "rows.json").read_text())
    return Gallery(
        np.load(folder / "images.npy", mmap_mode="r"),
        [r["people"] for r in rows],
        [np.array(r["landmarks"], np.float32).reshape(-1, 5, 2) for r in rows],
        [np.array(r["boxes"], np.float32).reshape(-1, 4) for r in rows],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--pictures", type=int, default=20_000)
    arguments = parser.parse_args()
    make(arguments.work / "gallery", arguments.pictures)
