"""A training set of drawn pictures, kept as memory-mapped arrays outside the repository.

    python -m pmagic.mini.corpus WORK --pictures 60000

Any picture can be drawn again from its number alone, and nobody from `HELD_OUT` on is ever in it.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator

from pmagic.world.drawing import SIDE, Drawing, draw
from pmagic.world.people import NAMED, NAMES, person
from pmagic.world.scenes import MARK, Scene, caption, pair_caption, pair_scenes, rng_for, scene
from pmagic.world.things import thing, thing_caption

PEOPLE = 60_000  # seeds below are drawn for training; the first `NAMED` of them by name
# Half of the pictures show the first of them, a quarter the next. Where everybody was seen once, no trait was learned;
# with faces that return strangers are learned, too (docs/miniature.md).
FAMILIAR, KNOWN = 64, 576
CHUNK = 500


@dataclass(frozen=True)
class Sample:
    """One picture of the corpus with what is known of it."""

    drawing: Drawing
    caption: str  # with `MARK` where a person of `marked` is named
    marked: tuple[int, ...]  # seeds, in the caption's order
    person: int  # seed of the one person shown, -1 for pairs and things
    scene: Scene


def _somebody(rng: Generator) -> int:
    """Seed of a person without a name: mostly one that is shown often."""
    how = rng.random()
    low, high = (0, FAMILIAR) if how < 0.5 else (FAMILIAR, KNOWN) if how < 0.75 else (KNOWN, PEOPLE - NAMED)
    return NAMED + int(rng.integers(low, high))


def sample(number: int) -> Sample:
    """Picture `number`: nine in ten show one person, the rest pairs, cats, cups and empty places."""
    rng = rng_for(1, number)
    kind = rng.random()
    where = scene(rng)
    if kind < 0.89:
        how = rng.random()  # marked, named, told by traits, or only a face
        named = 0.7 <= how < 0.8
        who = int(rng.integers(0, NAMED)) if named else _somebody(rng)
        name = NAMES[who] if named else MARK if how < 0.7 else None
        text = caption(person(who), where, rng, name, traits=how < 0.92)
        return Sample(draw([(person(who), where)]), text, (who,) if name == MARK else (), who, where)
    if kind < 0.95:
        scenes = pair_scenes(rng)
        seeds = [int(s) for s in rng.integers(0, NAMED, 2)]
        how = rng.random(2)
        subjects = [MARK if h < 0.6 else NAMES[s] if h < 0.85 else "a face" for h, s in zip(how, seeds, strict=True)]
        seeds = [_somebody(rng) if h < 0.6 else s for h, s in zip(how, seeds, strict=True)]
        text = pair_caption((subjects[0], subjects[1]), scenes[0], rng)
        marked = tuple(s for s, word in zip(seeds, subjects, strict=True) if word == MARK)
        drawing = draw([(person(s), each) for s, each in zip(seeds, scenes, strict=True)])
        return Sample(drawing, text, marked, -1, scenes[0])
    what = thing(rng, "cat" if kind < 0.97 else "cup") if kind < 0.985 else None
    return Sample(draw([], (what, where)), thing_caption(what, where, rng), (), -1, where)


@dataclass(frozen=True)
class Corpus:
    """images (N, side, side, 3) uint8; masks (N, side, side) uint8; captions, marked, people, scenes: N each."""

    images: np.ndarray
    masks: np.ndarray
    captions: list[str]
    marked: list[list[int]]
    people: np.ndarray
    scenes: list[dict]
    landmarks: list[list]

    @property
    def words(self) -> list[str]:
        """The captions for whoever reads words alone."""
        return [text.replace(MARK, "face") for text in self.captions]


def _array(folder: Path, name: str, shape: tuple[int, ...], mode: str) -> np.ndarray:
    return np.lib.format.open_memmap(folder / f"{name}.npy", mode=mode, dtype=np.uint8, shape=shape)


def _draw_chunk(folder: Path, start: int, stop: int) -> list[dict]:
    images = np.load(folder / "images.npy", mmap_mode="r+")
    masks = np.load(folder / "masks.npy", mmap_mode="r+")
    rows = []
    for k in range(start, stop):
        s = sample(k)
        images[k], masks[k] = s.drawing.image, s.drawing.mask
        rows.append(
            {
                "caption": s.caption,
                "marked": s.marked,
                "person": s.person,
                "scene": asdict(s.scene),
                "landmarks": s.drawing.landmarks.round(4).tolist(),
            }
        )
    return rows


def make(folder: Path, pictures: int) -> None:
    """Draw `pictures` pictures into `folder` on all cores; done before if the folder says so."""
    if (folder / "rows.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    _array(folder, "images", (pictures, SIDE, SIDE, 3), "w+").flush()
    _array(folder, "masks", (pictures, SIDE, SIDE), "w+").flush()
    starts = range(0, pictures, CHUNK)
    with ProcessPoolExecutor() as pool:
        chunks = pool.map(_draw_chunk, [folder] * len(starts), starts, [min(s + CHUNK, pictures) for s in starts])
        rows = [row for chunk in chunks for row in chunk]
    (folder / "rows.json").write_text(json.dumps(rows))


def load(folder: Path) -> Corpus:
    rows = json.loads((folder / "rows.json").read_text())
    return Corpus(
        np.load(folder / "images.npy", mmap_mode="r"),
        np.load(folder / "masks.npy", mmap_mode="r"),
        [r["caption"] for r in rows],
        [r["marked"] for r in rows],
        np.array([r["person"] for r in rows]),
        [r["scene"] for r in rows],
        [r["landmarks"] for r in rows],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--pictures", type=int, default=60_000)
    arguments = parser.parse_args()
    make(arguments.work / "corpus", arguments.pictures)
