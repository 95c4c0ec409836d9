"""Data sets, one file each: people, and photos of them as they lie on disk. The contract of a file on this shelf:

WANTED: str                               what --root must be a folder of
WHERE: str                                where to get it
fetches() -> str                          what would be downloaded without --root, "" for nothing; WeightsMissing
                                          where it cannot be
PROMPTS: tuple[str, ...] | None           what to draw of these people; None: the paper's prompts
people(root: Path | None) -> list[Individual]   all of them, in an order that depends on the data alone

A data set that can be learned from in several ways, and draws its people itself, has besides

PHOTOS: tuple[str, ...]                   sorts of photos, the usual one first; `people` then takes one as `photos`
panel(photos: str) -> list[Individual]    people of no sample, with `drawings`: what a likeness may be measured by
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pmagic import pictures, shelf
from pmagic.errors import NotFound, UsageProblem
from pmagic.pictures import Photo

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_SHOWN = 6  # entries of a folder whose layout is wrong
_NUMBERS = re.compile(r"(\d+)")

Source = Callable[[], Photo]  # a photo that is read, or drawn, when it is needed


@dataclass(frozen=True)
class Individual:
    """One person of a data set. unseen: photos that are not learned from, to tell a likeness from a copy."""

    name: str
    learned: tuple[Source, ...]
    unseen: tuple[Source, ...] = ()
    mask: "Callable[[], Image.Image] | None" = None  # of the only photo learned from, where the data set knows it
    traits: str = ""  # what the data set says of the person, in words
    # By prompt, where the data set draws the person itself.
    drawings: Mapping[str, Source] = field(default_factory=dict)


def drawn(people: Sequence[Individual], count: int, repeats: int, seed: int) -> list[list[Individual]]:
    """`repeats` samples of `count` people each, nobody twice, the same for the same seed.

    Raises UsageProblem where there are not that many people.
    """
    import numpy as np

    if count * repeats > len(people):
        raise UsageProblem(
            f"{repeats} x {count} different people are asked for, and the data set has {len(people)}",
            f"draw fewer: --people {max(1, len(people) // repeats)}" + (f" --repeats {repeats}" if repeats > 1 else ""),
        )
    order = np.random.default_rng(seed).permutation(len(people))
    return [[people[k] for k in order[first * count : (first + 1) * count]] for first in range(repeats)]


def sorts_of(name: str) -> tuple[str, ...]:
    """The sorts of photos that a data set has to choose from, the usual one first; () where there is one."""
    return getattr(shelf.take("datasets", name), "PHOTOS", ())


def panel(name: str, photos: str) -> list[Individual]:
    """People of no sample whom the data set draws itself; [] where it draws nobody."""
    source = shelf.take("datasets", name)
    return source.panel(photos) if hasattr(source, "panel") else []


def fetches_nothing() -> str:
    """What most data sets would download without --root."""
    return ""


def photos_of(folder: Path) -> list[Path]:
    """The photos that lie in a folder itself, by number where their names are numbers."""
    return sorted((each for each in folder.iterdir() if _is_photo(each)), key=_natural)


def folders_of(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))


def from_file(path: Path) -> Source:
    return partial(pictures.read_photo, path)


def require_folder(root: Path | None, wanted: str, where: str) -> Path:
    """UsageProblem or NotFound where there is no such folder."""
    if root is None:
        raise UsageProblem(f"this data set needs --root, {wanted}", where)
    if not root.is_dir():
        raise NotFound(f"there is no folder {root}", f"give --root {wanted}")
    return root


def wrong_layout(root: Path, wanted: str, where: str) -> NotFound:
    """What was expected of a folder, and what was found in it."""
    inside = sorted(each.name + "/" * each.is_dir() for each in root.iterdir())
    more = f" and {len(inside) - _SHOWN} more" if len(inside) > _SHOWN else ""
    found = ", ".join(inside[:_SHOWN]) + more if inside else "nothing"
    return NotFound(f"{root} must be {wanted}; found there: {found}", where)


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _natural(path: Path) -> list[tuple[int, str]]:
    """`2.jpg` before `10.jpg`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _NUMBERS.split(path.name)]
