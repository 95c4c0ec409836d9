"""Plots of an evaluation as PNG: text over identity with the Pareto front, all prompts, and the trend of Table 2.

Names and prompts are plain text: a dollar sign does not start a formula.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pmagic.engine.figures import figure, png
from pmagic.evaluation.statistics import Mean, front

INK, FAINT, OTHER = "#22577a", "#9aa5ad", "#c8553d"
_LONGEST = 44  # characters of a prompt that are shown
Plots = Mapping[str, tuple[bytes, str]]  # PNG and its description, by file name


def pareto(points: Mapping[str, tuple[Mean, Mean]], published: Mapping[str, tuple[float, float]]) -> bytes:
    """T-Sim over I-Pre with standard errors; the points are numbered. points: (I-Pre, T-Sim) by title.

    published: the paper's numbers, by the title of the variant that they are compared with.
    """
    drawing = figure(9.0, 4.6)
    axes = drawing.subplots()
    best = front({name: (x.value, y.value) for name, (x, y) in points.items()})
    line = sorted((points[name][0].value, points[name][1].value) for name in best)
    axes.plot([x for x, _ in line], [y for _, y in line], color=FAINT, ls="--", lw=1, zorder=1)
    for number, (name, (x, y)) in enumerate(points.items()):
        ink = INK if name in best else FAINT
        axes.errorbar(
            x.value, y.value, xerr=x.error, yerr=y.error, fmt="o", ms=6, capsize=2, elinewidth=1,
            color=ink, label=f"{number + 1}  {printable(_short(name))}",
        )  # fmt: skip
        # Each number has its own angle: numbers of coincident points do not overlap, and none lies on an error bar.
        angle = math.pi / 12 + 2 * math.pi * number / len(points)
        _number(axes, number, x.value, y.value, angle, "black")
        if name in published:
            axes.plot(*published[name], "s", ms=5, color=OTHER, mfc="none")
            _number(axes, number, *published[name], angle, OTHER)
    axes.margins(0.15)
    axes.set(xlabel="I-Pre (identity)", ylabel="T-Sim (text)")
    axes.set_title("dashed: Pareto front" + "; squares: the paper's" * bool(published), fontsize=9)
    for text in drawing.legend(loc="outside right upper", fontsize=8).get_texts():
        text.set_parse_math(False)
    return png(drawing)


def heat_map(
    prompts: Sequence[str], titles: Sequence[str], values: Mapping[str, Sequence[Sequence[float | None]]]
) -> bytes:
    """The mean of each prompt and variant. values: by column, one row per prompt, one number per variant."""
    height = 1.6 + 0.32 * len(prompts)
    drawing = figure(4.2 + (1.2 + 0.75 * len(titles)) * len(values), height)
    all_axes = np.atleast_1d(drawing.subplots(1, len(values), sharey=True))
    for axes, (column, rows) in zip(all_axes, values.items(), strict=True):
        numbers = np.array([[np.nan if each is None else each for each in row] for row in rows], float)
        shown = axes.imshow(numbers, cmap="viridis", aspect="auto")
        middle = (np.nanmin(numbers) + np.nanmax(numbers)) / 2 if np.isfinite(numbers).any() else 0.0
        for (row, place), value in np.ndenumerate(numbers):
            if np.isfinite(value):
                ink = "black" if value > middle else "white"
                axes.text(place, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=ink)
        axes.set_title(column, fontsize=9)
        _ticks(axes.set_xticks, axes.get_xticklabels, titles, rotation=40, ha="right")
        _ticks(axes.set_yticks, axes.get_yticklabels, [_short(each) for each in prompts])
        drawing.colorbar(shown, ax=axes, shrink=0.8)
    return png(drawing)


def trend(titles: Sequence[str], columns: Mapping[str, Sequence[Mean]]) -> bytes:
    """Each column over the variants, in their order, with standard errors."""
    drawing = figure(7.0, 3.6)
    all_axes = np.atleast_1d(drawing.subplots(1, len(columns)))
    for axes, (column, of) in zip(all_axes, columns.items(), strict=True):
        errors = [each.error or 0.0 for each in of]
        axes.errorbar(range(len(of)), [each.value for each in of], yerr=errors, fmt="o-", ms=4, capsize=2, color=INK)
        axes.set_title(column, fontsize=9)
        _ticks(axes.set_xticks, axes.get_xticklabels, titles, rotation=40, ha="right")
    return png(drawing)


def _ticks(place: Any, labels: Any, texts: Sequence[str], **settings: Any) -> None:
    place(range(len(texts)), [printable(each) for each in texts], fontsize=7, **settings)
    for label in labels():
        label.set_parse_math(False)


def _number(axes: Any, number: int, x: float, y: float, angle: float, ink: str) -> None:
    axes.annotate(
        str(number + 1), (x, y), textcoords="offset points", xytext=(11 * math.cos(angle), 11 * math.sin(angle)),
        fontsize=8, color=ink, ha="center", va="center",
    )  # fmt: skip


def _short(prompt: str) -> str:
    return prompt if len(prompt) <= _LONGEST else prompt[: _LONGEST - 1] + "…"


def printable(text: str) -> str:
    """The text with a replacement for characters that cannot be shown or would reverse the text direction."""
    return "".join(each if each.isprintable() else "�" for each in text)
