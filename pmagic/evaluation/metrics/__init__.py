"""Metrics, one file each. The contract of a file on this shelf:

ORDER: int                     the position of the metric in tables and plots, the lowest first
COLUMNS: Mapping[str, str]     its columns by name, each with its meaning
PRIMARY: str                   the column for plots and differences, "" for none
PAIRED: Sequence[str]          optional: other columns for differences
SLOPES: Mapping[str, Slope]    optional: regression slopes over all people; tables omit the columns they are fitted to
def measure(observers: Observers, sample: Sample) -> dict[str, list[float | None]]
                               for each column one number per picture, None if it is undefined

A sample holds the pictures, their prompt, the judge's embeddings of the faces in the person's photos, and the photos
themselves: `sample.learned_photos` and `sample.unseen_photos`, which are read on first use.
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
    """The least-squares slope of one column on another, over the means of all people."""

    meaning: str
    y: str  # a column
    x: str  # a column
    spread: float  # the smallest standard deviation of x over people for which a slope is fitted


@dataclass(frozen=True)
class Scale:
    """The mean identity of the data set's own drawings for one prompt with the photos learned from."""

    strangers: float  # drawings and photos of different people
    person: float  # drawings and photos of the same person


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The pictures of one person for one prompt, as a metric sees them."""

    pictures: Sequence[Image.Image]
    prompt: int  # its index in `prompts`
    prompts: Sequence[str]  # all prompts of the evaluation, with the plain word in place of the name
    learned: np.ndarray  # (P, E), unit rows: the faces in the photos learned from
    unseen: np.ndarray  # (U, E), unit rows: the faces in other photos of the person; U may be 0
    scans: Sequence[FaceScan] = ()  # the scans of the photos learned from
    scale: Scale | None = None  # None if the data set has no drawings
    read_learned: Callable[[], Sequence[Image.Image]] = tuple
    read_unseen: Callable[[], Sequence[Image.Image]] = tuple

    @cached_property
    def learned_photos(self) -> Sequence[Image.Image]:
        """The P photos learned from, upright, in RGB, in their own sizes. Metrics must not change them."""
        return self.read_learned()

    @cached_property
    def unseen_photos(self) -> Sequence[Image.Image]:
        """Other photos of the person in the same form, including those without a face."""
        return self.read_unseen()


def columns() -> dict[str, str]:
    """All columns of all metrics with their meanings, the primary ones first."""
    found = {name: meaning for each in _metrics() for name, meaning in each.COLUMNS.items()}
    return {name: found[name] for name in [*primaries(), *(name for name in found if name not in primaries())]}


def slopes() -> dict[str, Slope]:
    """All regression slopes of all metrics, by name."""
    return {name: slope for each in _metrics() for name, slope in getattr(each, "SLOPES", {}).items()}


def table_columns() -> dict[str, str]:
    """The columns of tables with their meanings: those that no slope is fitted to, then the slopes."""
    read = {column for slope in slopes().values() for column in (slope.y, slope.x)}
    own = {name: meaning for name, meaning in columns().items() if name not in read}
    return own | {name: slope.meaning for name, slope in slopes().items()}


def primaries() -> list[str]:
    """The columns for plots and differences."""
    return [each.PRIMARY for each in _metrics() if each.PRIMARY]


def paired_columns() -> list[str]:
    """The columns for differences, the primary ones first."""
    return [*primaries(), *(column for each in _metrics() for column in getattr(each, "PAIRED", ()))]


def _metrics() -> list[ModuleType]:
    """All metrics sorted by ORDER, then by name."""
    return sorted((shelf.take(SHELF, name) for name in shelf.names(SHELF)), key=lambda each: each.ORDER)


def measure(observers: Observers, sample: Sample) -> dict[str, list[float | None]]:
    """All columns by name, rounded to six decimals: further digits are noise."""
    found: dict[str, list[float | None]] = {}
    for each in _metrics():
        for column, values in each.measure(observers, sample).items():
            found[column] = [None if value is None else round(value, 6) for value in values]
    return {column: found[column] for column in columns()}
