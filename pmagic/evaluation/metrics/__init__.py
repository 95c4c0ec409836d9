"""Metrics, one file each. The contract of a file on this shelf:

COLUMNS: Mapping[str, str]     its numbers by name, each with what it says
CHIEF: str                     the one that plots and differences are about, "" for none
def measure(observers: Observers, case: Case) -> dict[str, list[float | None]]
                               for each column one number a picture, None where it has no meaning
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pmagic import shelf

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from pmagic.evaluation.observers import Observers

SHELF = "evaluation.metrics"

# P photos learned from . U photos not learned from . E width of the judge's embedding


@dataclass(frozen=True)
class Case:
    """Pictures of one person by one prompt, as a metric may see them."""

    pictures: Sequence[Image.Image]
    prompt: int  # its number among `prompts`
    prompts: Sequence[str]  # all of the evaluation's, the plain word where the name stands
    learned: np.ndarray  # (P, E), unit rows: the faces in the photos learned from
    unseen: np.ndarray  # (U, E), of other photos of the person; U may be 0


def columns() -> dict[str, str]:
    """Every number of every metric, with what it says; the chief ones first."""
    metrics = [shelf.take(SHELF, name) for name in shelf.names(SHELF)]
    found = {name: told for each in metrics for name, told in each.COLUMNS.items()}
    return {name: found[name] for name in [*chiefs(), *(name for name in found if name not in chiefs())]}


def chiefs() -> list[str]:
    """The columns that plots and differences are about, t_sim before i_pre as in the paper's tables."""
    found = (shelf.take(SHELF, name).CHIEF for name in shelf.names(SHELF))
    return sorted((each for each in found if each), reverse=True)


def measured(observers: Observers, case: Case) -> dict[str, list[float | None]]:
    """Every column by name, rounded to six decimals: less is noise."""
    found: dict[str, list[float | None]] = {}
    for name in shelf.names(SHELF):
        for column, values in shelf.take(SHELF, name).measure(observers, case).items():
            found[column] = [None if value is None else round(value, 6) for value in values]
    return {column: found[column] for column in columns()}
