"""The report as values: what was measured, the table of means, the caveats, and the document that is kept of it."""

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
    """One line of the table: what is compared, and the paper's row beside it."""

    key: str
    title: str
    table: int = 0
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that is told. people: by number, those with photos in hand. about: the plan, as it is kept."""

    about: Mapping[str, Any]
    rows: Sequence[Row]
    prompts: Sequence[str]
    people: Mapping[int, EvalSubject]
    names: Sequence[str]  # of everyone who was drawn, in order of their numbers
    traits: Mapping[int, str]
    scores: Sequence[Score]
    stages: Mapping[str, Sequence[Mapping[str, Any]]]  # what each variant came to, for each person
    faceless: Mapping[int, Sequence[str]]  # photos not learned from in which no face is found, by person
    failures: Mapping[int, Failure]
    pictures: Path  # what the scores' places are relative to

    @property
    def keys(self) -> list[str]:
        return [row.key for row in self.rows]

    @cached_property
    def means(self) -> list[Mean]:
        columns = [name for name in metrics.tabled() if name in metrics.columns()]
        means = statistics.means(self.scores, self.keys, columns)
        return means + statistics.slopes(self.scores, self.keys, metrics.slopes())

    @cached_property
    def differences(self) -> list[Difference]:
        return statistics.differences(self.scores, self.keys, metrics.paired())


def table(report: Report) -> list[list[str]]:
    """The means as text: a line a variant, and the paper's line below it where it has one."""
    columns = list(metrics.tabled())
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
    """What makes the numbers say less than they seem to, a sentence each."""
    for row in report.rows:
        of = report.stages.get(row.key, [])
        fallen = [each for each in of if each.get("fell_back")]
        if fallen:
            taken = ", ".join(sorted({"{}:{}".format(*each["bounds"]) for each in fallen}))
            yield f"{row.title}: {len(fallen)} of {len(of)} people fell back to the stages {taken}"
    yield from _shared(report)
    for number, files in sorted(report.faceless.items()):
        yield f"{report.names[number - 1]}: no face is found in {', '.join(files)}: nothing is compared with it"


def _shared(report: Report) -> Iterator[str]:
    """Which rows tell of the same pictures: each row beside the earlier one that it has most in common with.

    Two variants come to the same where the probe's bounds are those that the other one has anyway.
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
    """people: of the row; who has nothing to say in this column is told."""
    if mean is None:
        return "-"
    fewer = f" (of {mean.people})" if mean.people < people else ""
    return f"{mean.value:.3f}" + ("" if mean.error is None else f" ± {mean.error:.3f}") + fewer


def people_in(of: Mapping[str, Mean]) -> int:
    return max((each.people for each in of.values()), default=0)


def published_rows(report: Report, row: Row) -> dict | None:
    """The paper's numbers, and whether they are of another base or other people."""
    dataset, base = str(report.about.get("dataset", "")), str(report.about.get("base", ""))
    found = published.row(row.table, row.label, dataset, base) if row.table else None
    if found is None:
        return None
    return {
        "told": found.told(),
        "base": found.base,
        "other": (found.dataset, found.base) != (dataset, base),
        "scores": {"t_sim": f"{found.t_sim:.3f}", "i_pre": f"{found.i_pre:.3f}"},
    }


def document(report: Report) -> dict[str, object]:
    """Everything as plain values: what results.json holds."""
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
