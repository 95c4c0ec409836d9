"""The report as values: the measurements, the table of means, the caveats, and the document for results.json."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pmagic.evaluation import metrics, published, statistics
from pmagic.evaluation.eval_config import EvalSubject
from pmagic.evaluation.harness import Failure
from pmagic.evaluation.statistics import Difference, Mean, Score


@dataclass(frozen=True)
class Row:
    """One row of the table: a variant, and the table and label of the published row that it is compared with."""

    key: str
    title: str
    table: int = 0
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The contents of the report. people: the subjects with readable photos, by number. about: the stored plan."""

    about: Mapping[str, Any]
    rows: Sequence[Row]
    prompts: Sequence[str]
    people: Mapping[int, EvalSubject]
    names: Sequence[str]  # of all people of the sample, in order of their numbers
    traits: Mapping[int, str]
    scores: Sequence[Score]
    stages: Mapping[str, Sequence[Mapping[str, Any]]]  # the outcome of each variant for each person, such as the stages
    faceless: Mapping[int, Sequence[str]]  # files of unseen photos without a face, by person
    failures: Mapping[int, Failure]
    pictures: Path  # the folder that the scores' paths are relative to

    @property
    def keys(self) -> list[str]:
        return [row.key for row in self.rows]

    @cached_property
    def means(self) -> list[Mean]:
        columns = [name for name in metrics.table_columns() if name in metrics.columns()]
        means = statistics.means(self.scores, self.keys, columns)
        return means + statistics.slopes(self.scores, self.keys, metrics.slopes())

    @cached_property
    def differences(self) -> list[Difference]:
        return statistics.differences(self.scores, self.keys, metrics.paired_columns())


def table(report: Report) -> list[list[str]]:
    """The means as text: one line per variant, followed by the published line if there is one."""
    columns = list(metrics.table_columns())
    lines = [["", *columns, "people"]]
    for row in report.rows:
        of = {each.column: each for each in report.means if each.variant == row.key}
        lines.append([row.title, *(cell_text(of.get(column), people_in(of)) for column in columns), str(people_in(of))])
        theirs = published_rows(report, row)
        if theirs is not None:
            lines.append(
                [f"  the paper's: {theirs['told']}", *(str(theirs["scores"].get(column, "")) for column in columns), ""]
            )
    return lines


def caveats(report: Report) -> Iterator[str]:
    """The limitations of the results, one sentence each."""
    for row in report.rows:
        of = report.stages.get(row.key, [])
        fallen = [each for each in of if each.get("fell_back")]
        if fallen:
            taken = ", ".join(sorted({"{}:{}".format(*each["bounds"]) for each in fallen}))
            yield f"{row.title}: {len(fallen)} of {len(of)} people fell back to the stages {taken}"
    yield from _find_shared(report)
    for number, files in sorted(report.faceless.items()):
        yield f"{report.names[number - 1]}: no face is found in {', '.join(files)}: nothing is compared with it"


def _find_shared(report: Report) -> Iterator[str]:
    """The rows that share pictures: each row with the earlier row that it shares most pictures with.

    Two variants share pictures if the probe finds the bounds that the other variant has.
    """
    drawn = {
        key: {(each["person"], each["drawing"]) for each in of if "drawing" in each}
        for key, of in report.stages.items()
    }
    for number, row in enumerate(report.rows):
        mine = drawn.get(row.key, set())
        common = [(len(mine & drawn.get(other.key, set())), other) for other in report.rows[:number]]
        count, other = max(common, key=lambda each: each[0], default=(0, row))
        if count:
            yield (
                f"{row.title}: for {count} of {len(mine)} people it came to the same as {other.title}, "
                "whose pictures are counted in both rows"
            )


def cell_text(mean: Mean | None, people: int) -> str:
    """A mean as text. people: the number in the row; if the mean covers fewer people, the text says how many."""
    if mean is None:
        return "-"
    fewer = f" (of {mean.people})" if mean.people < people else ""
    return f"{mean.value:.3f}" + ("" if mean.error is None else f" ± {mean.error:.3f}") + fewer


def people_in(of: Mapping[str, Mean]) -> int:
    return max((each.people for each in of.values()), default=0)


def published_rows(report: Report, row: Row) -> dict | None:
    """The published numbers of a row, and whether they are of another base or data set; None if there are none."""
    dataset, base = str(report.about.get("dataset", "")), str(report.about.get("base", ""))
    found = published.find_row(row.table, row.label, dataset, base) if row.table else None
    if found is None:
        return None
    return {
        "told": found.describe(),
        "base": found.base,
        "other": (found.dataset, found.base) != (dataset, base),
        "scores": {"t_sim": f"{found.t_sim:.3f}", "i_pre": f"{found.i_pre:.3f}"},
    }


def document(report: Report) -> dict[str, object]:
    """The whole report as plain values, for results.json."""
    return {
        "plan": report.about,
        "means": [vars(each) for each in report.means],
        "differences": [vars(each) for each in report.differences],
        "stages": {key: list(of) for key, of in report.stages.items()},
        "failures": [
            {"person": number, "name": report.names[number - 1], **vars(each)}
            for number, each in sorted(report.failures.items())
        ],
        "pictures": [
            {
                "variant": s.variant,
                "person": s.person,
                "prompt": s.prompt,
                "seed": s.seed,
                "file": s.place,
                **s.values,
            }
            for s in report.scores
        ],
    }
