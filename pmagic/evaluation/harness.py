"""The harness runs an evaluation subject by subject, in this process or on workers, and stores each result at once.

The stored results do not depend on where they were computed. A subject that fails does not stop the others.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from pmagic import errors
from pmagic.datasets import Individual
from pmagic.errors import PmagicError
from pmagic.evaluation.eval_config import EvalConfig, EvalSubject, eval_subject
from pmagic.evaluation.eval_context import EvalContext
from pmagic.evaluation.store import Result, Store
from pmagic.evaluation.subject_run import Progress, SubjectRun, is_done
from pmagic.evaluation.variants import Variant


@dataclass(frozen=True)
class Failure:
    """Why a subject is not complete. A defect of the program fails only one subject, too, and is reported as such."""

    what: str
    next_step: str = ""


@dataclass(frozen=True)
class Task:
    """One subject to evaluate, with its results so far."""

    who: EvalSubject
    kept: dict[str, dict[str, bytes]]


Event = tuple[EvalSubject, Result | Failure | None]  # None: the subject is complete
Workers = Callable[[Sequence[Task]], Iterator[Event]]
# Errors that would also occur for the next subject.
_NOT_THE_PERSONS = (errors.StorageFailed, errors.WeightsMissing, errors.Incompatible, errors.OutOfMemory, errors.Busy)


def people(sample: Sequence[Individual]) -> tuple[list[EvalSubject], dict[int, Failure]]:
    """The subjects with readable photos, and the failures of the other people, by number from 1."""
    subjects, failures = [], {}
    for number, who in enumerate(sample, 1):
        try:
            subjects.append(eval_subject(number, who))
        except PmagicError as problem:
            failures[number] = failure(problem)
    return subjects, failures


def tasks(store: Store, subjects: Sequence[EvalSubject], variants: Sequence[str]) -> list[Task]:
    """The subjects that are not complete for these variants."""
    left = [who for who in subjects if not is_done(store.read(who.place, weights=False), variants)]
    return [Task(who, store.read(who.place)) for who in left]


def run(store: Store, todo: Sequence[Task], workers: Workers, on_event: Callable[[Event], None]) -> dict[int, Failure]:
    """Store each result as it comes. Returns the failures by subject number. Exceptions of `on_event` propagate."""
    failures = {}
    for who, event in workers(todo):
        if isinstance(event, Result):
            store.keep(who.place, event)
        elif isinstance(event, Failure):
            failures[who.number] = event
        on_event((who, event))
    return failures


def run_in_process(context: EvalContext, store: Store, progress: Progress) -> Workers:
    """All work in this process. An interrupted learning run continues from its checkpoint."""

    def events(todo: Sequence[Task]) -> Iterator[Event]:
        for task in todo:
            for event in run_subject(partial(_make_run, context, store, progress, task)):
                yield task.who, event

    return events


def _make_run(context: EvalContext, store: Store, progress: Progress, task: Task) -> SubjectRun:
    return SubjectRun(
        context=context, who=task.who.load_photos(), kept=dict(task.kept), progress=progress, scratch=store.unfinished
    )


def run_subject(make_run: Callable[[], SubjectRun]) -> Iterator[Result | Failure | None]:
    """The results of a SubjectRun, then None; or a Failure, for an error that concerns this subject alone."""
    try:
        yield from make_run().results()
    except _NOT_THE_PERSONS:
        raise
    except PmagicError as problem:
        yield failure(problem)
    except Exception as error:
        yield Failure(f"this is a defect of pmagic: {type(error).__name__}: {error}", "learn this person by itself")
    else:
        yield None


def failure(problem: PmagicError) -> Failure:
    return Failure(problem.what, problem.next_step)


def plan(
    config: EvalConfig, names: Sequence[Sequence[str]], variants: Sequence[Variant], about: dict[str, object]
) -> dict[str, object]:
    """All that determines the results, as plain values. names: of the people, by repeat. about: base and observers."""
    import diffusers
    import torch
    import transformers

    import pmagic
    from pmagic.evaluation import metrics

    return {
        "pmagic": pmagic.__version__,
        "base": config.base,
        **about,
        "dataset": config.dataset,
        "people": [list(each) for each in names],
        **({"photos": config.photos} if config.photos else {}),
        "prompts": list(config.prompts),
        "pictures": config.pictures,
        "seed": config.seed,
        "dtype": config.dtype,
        "variants": [each.as_table() for each in variants],
        "metrics": metrics.columns(),
        "versions": {each.__name__: each.__version__ for each in (torch, diffusers, transformers)},
    }
