"""Statistics: means over people with their standard errors, and paired differences. Each person counts once."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pmagic.evaluation.metrics import Slope

RESAMPLES, CONFIDENCE = 9999, 0.95


@dataclass(frozen=True, kw_only=True)
class Score:
    """The scores of one picture. variant: its key. person, prompt: counted from 1. k: the picture, counted from 0."""

    variant: str
    person: int
    prompt: int
    k: int
    seed: int | None
    values: Mapping[str, float | None]
    place: str  # the picture's path, relative to the store


@dataclass(frozen=True, kw_only=True)
class Mean:
    """The mean of one column over the people of one variant, or a regression slope over them.

    error: the standard error over people, None for a single person.
    """

    variant: str
    column: str
    value: float
    error: float | None
    people: int
    pictures: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The mean over people of `variant` minus `against`, with its bootstrap interval (None for a single person)."""

    variant: str
    against: str
    column: str
    value: float
    low: float | None
    high: float | None
    people: int  # the number of people with both variants


def means(scores: Sequence[Score], variants: Sequence[str], columns: Sequence[str]) -> list[Mean]:
    """The means of each variant's columns, in order. Columns without values are left out."""
    found = []
    for variant in variants:
        for column in columns:
            each = by_person(scores, variant, column)
            if each:
                error = float(np.std(list(each.values()), ddof=1) / math.sqrt(len(each))) if len(each) > 1 else None
                count = sum(s.variant == variant and s.values.get(column) is not None for s in scores)
                found.append(
                    Mean(
                        variant=variant,
                        column=column,
                        value=float(np.mean(list(each.values()))),
                        error=error,
                        people=len(each),
                        pictures=count,
                    )
                )
    return found


def slopes(scores: Sequence[Score], variants: Sequence[str], asked: Mapping[str, Slope]) -> list[Mean]:
    """The least-squares slopes of each variant over people, with their standard errors.

    A slope is left out if fewer than three people have both columns, or if x varies less than the slope's `spread`.
    """
    found = []
    for variant in variants:
        for name, slope in asked.items():
            of_y, of_x = (by_person(scores, variant, column) for column in (slope.y, slope.x))
            both = sorted(of_y.keys() & of_x.keys())
            x, y = (np.array([of[who] for who in both]) for of in (of_x, of_y))
            if len(both) < 3 or np.std(x) < slope.spread:
                continue
            square = float(((x - x.mean()) ** 2).sum())
            value = float(((x - x.mean()) * (y - y.mean())).sum()) / square
            left = y - y.mean() - value * (x - x.mean())
            error = math.sqrt(float((left**2).sum()) / (len(both) - 2) / square)
            count = sum(s.variant == variant and s.values.get(slope.y) is not None for s in scores)
            found.append(Mean(variant=variant, column=name, value=value, error=error, people=len(both), pictures=count))
    return found


def differences(scores: Sequence[Score], variants: Sequence[str], columns: Sequence[str]) -> list[Difference]:
    """The difference of each variant to each earlier one, over the people that have both."""
    found = []
    for column in columns:
        of = {variant: by_person(scores, variant, column) for variant in variants}
        for later, variant in enumerate(variants):
            for against in variants[:later]:
                both = sorted(of[variant].keys() & of[against].keys())
                if both:
                    apart = np.array([of[variant][who] - of[against][who] for who in both])
                    low, high = interval(apart)
                    found.append(
                        Difference(
                            variant=variant,
                            against=against,
                            column=column,
                            value=float(apart.mean()),
                            low=low,
                            high=high,
                            people=len(both),
                        )
                    )
    return found


def by_person(scores: Sequence[Score], variant: str, column: str) -> dict[int, float]:
    """The mean of each person over the pictures that have a value in the column."""
    of: dict[int, list[float]] = {}
    for score in scores:
        value = score.values.get(column)
        if score.variant == variant and value is not None:
            of.setdefault(score.person, []).append(value)
    return {who: float(np.mean(values)) for who, values in of.items()}


def interval(values: np.ndarray) -> tuple[float | None, float | None]:
    """The percentile bootstrap interval of the mean, deterministic for given values; None for fewer than two values."""
    if len(values) < 2:
        return None, None
    if np.ptp(values) == 0:  # every resample has this mean
        return float(values[0]), float(values[0])
    from scipy.stats import bootstrap

    found = bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def by_prompt(scores: Sequence[Score], variant: str, column: str, prompts: int) -> list[float | None]:
    """The mean of each prompt over all pictures, None for a prompt without values."""
    found: list[list[float]] = [[] for _ in range(prompts)]
    for score in scores:
        value = score.values.get(column)
        if score.variant == variant and value is not None:
            found[score.prompt - 1].append(value)
    return [float(np.mean(each)) if each else None for each in found]


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The Pareto front: the points that no other point dominates. Larger is better on both axes."""
    return [
        name
        for name, (x, y) in points.items()
        if not any(a >= x and b >= y and (a > x or b > y) for a, b in points.values())
    ]


def as_csv(means: Sequence[Mean], differences: Sequence[Difference]) -> bytes:
    """One line per value: the means with standard errors, then the differences with intervals; six decimals."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(
        ["kind", "variant", "against", "metric", "value", "standard_error", "low", "high", "people", "pictures"]
    )
    for m in means:
        lines.writerow(["mean", m.variant, "", m.column, _six(m.value), _six(m.error), "", "", m.people, m.pictures])
    for d in differences:
        lines.writerow(
            ["difference", d.variant, d.against, d.column, _six(d.value), "", _six(d.low), _six(d.high), d.people, ""]
        )
    return text.getvalue().encode()


def _six(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"
