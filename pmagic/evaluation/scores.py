"""Scores of all subjects, read from the store in the order of the plan."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pmagic.evaluation import metrics
from pmagic.evaluation.eval_config import EvalSubject
from pmagic.evaluation.statistics import Score
from pmagic.evaluation.store import CELL, Store
from pmagic.evaluation.subject_run import VARIANT, cell

Stages = dict[str, list[dict[str, Any]]]  # the outcome of each variant for each person, as JSON values


def scores_of(
    store: Store, people: Mapping[int, EvalSubject], variants: Sequence[str], prompts: int
) -> tuple[list[Score], Stages]:
    """The scores of all pictures by variant, person and prompt; and the outcome of each variant for each person.

    A variant that is not complete for a person is left out.
    """
    kept = {number: store.read(who.place, weights=False) for number, who in people.items()}
    scores: list[Score] = []
    stages: Stages = {variant: [] for variant in variants}
    for variant in variants:
        for number, who in people.items():
            about = kept[number].get(f"variants/{variant}")
            if about is None:
                continue
            told = json.loads(about[VARIANT])
            stages[variant].append({"person": number, **told})
            for prompt in range(prompts):
                place = cell(told["drawing"], prompt)
                found = json.loads(kept[number][place][CELL])
                where = [store.picture(who.place, place, k) for k in range(len(found["seeds"]))]
                files = [each.relative_to(store.root).as_posix() for each in where]
                values = {column: found["scores"][column] for column in metrics.columns()}
                scores += rows((variant, number, prompt + 1), found["seeds"], files, values)
    return scores, stages


def rows(
    where: tuple[str, int, int],
    seeds: Sequence[int | None],
    files: Sequence[str],
    values: Mapping[str, Sequence[float | None]],
) -> Iterator[Score]:
    """One score per picture. where: variant, person, prompt."""
    variant, person, prompt = where
    for k, (seed, file) in enumerate(zip(seeds, files, strict=True)):
        numbers = {column: of[k] for column, of in values.items()}
        yield Score(variant=variant, person=person, prompt=prompt, k=k, seed=seed, values=numbers, place=file)
