"""Metrics, one file each. The contract of a file on this shelf:

COLUMNS: Mapping[str, str]     its numbers by name, each with what it says
CHIEF: str                     the one that plots and differences are about, "" for none
PAIRED: Sequence[str]          optional: others of its columns that differences are about
SLOPES: Mapping[str, Slope]    optional: numbers of all people together; what they are read from is not tabled itself
def measure(observers: Observers, case: Case) -> dict[str, list[float | None]]
                               for each column one number a picture, None where it has no meaning
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    photos: Sequence[FaceScan] = ()  # where the face is in the photos learned from
    scale: Scale | None = None  # None where the data set draws nothing itself


def columns() -> dict[str, str]:
    """Every number of a picture by every metric, with what it says; the chief ones first."""
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
    """The columns that plots and differences are about, t_sim before i_pre as in the paper's tables."""
    return sorted((each.PRIMARY for each in _metrics() if each.PRIMARY), reverse=True)


def paired() -> list[str]:
    """The columns that differences are about, the chief ones first."""
    return [*primaries(), *(column for each in _metrics() for column in getattr(each, "PAIRED", ()))]


def _metrics() -> list[ModuleType]:
    return [shelf.take(SHELF, name) for name in shelf.names(SHELF)]


def measured(observers: Observers, case: Sample) -> dict[str, list[float | None]]:
    """Every column by name, rounded to six decimals: less is noise."""
    found: dict[str, list[float | None]] = {}
    for name in shelf.names(SHELF):
        for column, values in shelf.take(SHELF, name).measure(observers, case).items():
            found[column] = [None if value is None else round(value, 6) for value in values]
    return {column: found[column] for column in columns()}
