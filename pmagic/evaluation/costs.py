"""What each variant costs: seconds of learning, bytes kept, seconds a picture; means over people.

Durations differ from run to run, so they are no part of the files that are the same to the byte each time.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from pmagic.evaluation.eval_config import EvalSubject
from pmagic.evaluation.store import PERSONA, Store
from pmagic.evaluation.subject_run import cell


@dataclass(frozen=True, kw_only=True)
class Cost:
    """None where nothing is known: a learning that was interrupted, results of an earlier version."""

    learn_seconds: float | None
    kept_bytes: float
    picture_seconds: float | None


def costs_of(
    store: Store,
    people: Mapping[int, EvalSubject],
    stages: Mapping[str, Sequence[Mapping[str, Any]]],
    prompts: int,
    pictures: int,
) -> dict[str, Cost]:
    """By variant. stages: the outcome of each variant for each person. pictures: of each prompt.

    A picture's time is that of the sampler and the decoder, with the first steps shared as the evaluation shares them.
    """
    seconds, found = store.seconds(), {}
    for variant, outcomes in stages.items():
        learned, sizes, drawn = [], [], []
        for each in outcomes:
            person, place = people[each["person"]].place, f"{each['persona']}/{PERSONA}"
            learned.append(seconds.get((person, place)))
            sizes.append(store.size(person, place))
            drawn += [seconds.get((person, cell(each["drawing"], prompt))) for prompt in range(prompts)]
        if outcomes:
            of_prompt = _mean(drawn)
            found[variant] = Cost(
                learn_seconds=_mean(learned),
                kept_bytes=sum(sizes) / len(sizes),
                picture_seconds=None if of_prompt is None else of_prompt / pictures,
            )
    return found


def cells(cost: Cost | None) -> list[str]:
    """The columns of a table: seconds of learning, megabytes kept, seconds a picture."""
    if cost is None:
        return [""] * len(HEADS)
    learn, picture = ("-" if each is None else f"{each:.2f}" for each in (cost.learn_seconds, cost.picture_seconds))
    return [learn, f"{cost.kept_bytes / 1e6:.3f}", picture]


HEADS = ("learn s", "kept MB", "picture s")


def as_csv(costs: Mapping[str, Cost]) -> bytes:
    """One line for each variant."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    names = [each.name for each in fields(Cost)]
    lines.writerow(["variant", *names])
    for variant, cost in costs.items():
        values = [getattr(cost, name) for name in names]
        lines.writerow([variant, *("" if each is None else f"{each:.3f}" for each in values)])
    return text.getvalue().encode()


def _mean(values: Sequence[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return sum(known) / len(known) if known else None
