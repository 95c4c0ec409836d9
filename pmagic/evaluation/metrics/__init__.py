"""Metrics, one file each. The contract of a file on this shelf:

ORDER: int                     where it stands among the metrics in tables and plots, the lowest first
COLUMNS: Mapping[str, str]     its numbers by name, each with what it says
PRIMARY: str                   the one that plots and differences are about, "" for none
PAIRED: Sequence[str]          optional: others of its columns that differences are about
SLOPES: Mapping[str, Slope]    optional: numbers of all people together; what they are read from is not tabled itself
def measure(observers: Observers, case: Sample) -> dict[str, list[float | None]]
                               for each column one number a picture, None where it has no meaning

A sample gives the pictures, their prompt, the faces in the person's photos as the judge embeds them, and the photos
themselves: `case.learned_photos` and `case.unseen_photos`, read when a metric first asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING

from pmagic import shelf

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from pmagic.evaluation.observers import FaceScan, Observers

SHELF = "evaluation.metrics"

# P photos learned from . U photos not learned from . E width of the judge's embedding


@dataclass(frozen=True)
class Slope:
    """How far one column follows another over people: the least-squares slope of the people's means."""

    meaning: str
    y: str  # a column
    x: str  # a column
    spread: float  # the standard deviation of x over people below which there is nothing to follow


@dataclass(frozen=True)
class Scale:
    """Identity with the photos learned from, by one prompt, of what the data set itself draws by it."""

    strangers: float  # of other people
    person: float  # of the person in the photos


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Pictures of one person by one prompt, as a metric may see them."""

    pictures: Sequence[Image.Image]
    prompt: int  # its number among `prompts`
    prompts: Sequence[str]  # all of the evaluation's, the plain word where the name stands
    learned: np.ndarray  # (P, E), unit rows: the faces in the photos learned from
    unseen: np.ndarray  # (U, E), of other photos of the person; U may be 0
    scans: Sequence[FaceScan] = ()  # where the face is in the photos learned from
    scale: Scale | None = None  # None where the data set draws nothing itself
    read_learned: Callable[[], Sequence[Image.Image]] = tuple
    read_unseen: Callable[[], Sequence[Image.Image]] = tuple

    @cached_property
    def learned_photos(self) -> Sequence[Image.Image]:
        """The P photos learned from, upright, in RGB, in their own sizes; not to be changed."""
        return self.read_learned()

    @cached_property
    def unseen_photos(self) -> Sequence[Image.Image]:
        """Other photos of the person in the same form; those in which no face is found are among them."""
        return self.read_unseen()


def columns() -> dict[str, str]:
    """Every number of a picture by every metric, with what it says; the primary ones first."""
    found = {name: meaning for each in _metrics() for name, meaning in each.COLUMNS.items()}
    return {name: found[name] for name in [*primaries(), *(name for name in found if name not in primaries())]}


def slopes() -> dict[str, Slope]:
    """Every number of all people together."""
    return {name: slope for each in _metrics() for name, slope in getattr(each, "SLOPES", {}).items()}


def tabled() -> dict[str, str]:
    """What tables show, with what it says: the columns that no slope is read from, then the slopes."""
    read = {column for slope in slopes().values() for column in (slope.y, slope.x)}
    own = {name: meaning for name, meaning in columns().items() if name not in read}
    return own | {name: slope.meaning for name, slope in slopes().items()}


def primaries() -> list[str]:
    """The columns that plots and differences are about."""
    return [each.PRIMARY for each in _metrics() if each.PRIMARY]


def paired() -> list[str]:
    """The columns that differences are about, the primary ones first."""
    return [*primaries(), *(column for each in _metrics() for column in getattr(each, "PAIRED", ()))]


def _metrics() -> list[ModuleType]:
    """In their order; of two with the same number the one whose name is first."""
    return sorted((shelf.take(SHELF, name) for name in shelf.names(SHELF)), key=lambda each: each.ORDER)


def measured(observers: Observers, case: Sample) -> dict[str, list[float | None]]:
    """Every column by name, rounded to six decimals: less is noise."""
    found: dict[str, list[float | None]] = {}
    for each in _metrics():
        for column, values in each.measure(observers, case).items():
            found[column] = [None if value is None else round(value, 6) for value in values]
    return {column: found[column] for column in columns()}
