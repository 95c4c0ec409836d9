"""A crew: people given to whichever worker is free. A worker that dies costs the piece in work, and nothing else.

Every result is handed on as it is made; the person of a dead worker goes to a fresh one with all that is kept of them.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from pmagic.errors import PmagicError
from pmagic.evaluation.harness import Event, Failure, Task, failure
from pmagic.evaluation.store import Result
from pmagic.evaluation.subject_run import Progress

ATTEMPTS = 3  # of one person, before its worker's death is taken for the person's fault
LOOK = 0.5  # seconds between two looks at whether a stop was asked for


class Died(Exception):
    """A worker is gone, or cannot be reached."""


class Worker(Protocol):
    """A process with a bench of its own."""

    def begin(self, task: Task) -> None:
        """Start on a person. Raises Died."""

    def event(self) -> Result | Failure | None:
        """The next of the person's events, None when the part is complete.

        Raises Died, or the PmagicError that would stop everyone.
        """


Some = TypeVar("Some", bound=Worker)
Wait = Callable[[Sequence[Some], float], Sequence[Some]]  # (workers, seconds) -> those that have an event


def run_tasks(
    todo: Sequence[Task], make: Callable[[], Some], count: int, wait: Wait[Some], told: Progress
) -> Iterator[Event]:
    """The events of every task, by at most `count` workers, in the order in which they come."""
    waiting = deque(todo)
    attempts = dict.fromkeys((task.who.number for task in todo), 0)
    free = [make() for _ in range(min(count, len(todo)))]
    busy: dict[Some, Task] = {}

    def lost(task: Task) -> Iterator[Event]:
        free.append(make())
        if attempts[task.who.number] < ATTEMPTS:
            waiting.appendleft(task)
        else:
            yield task.who, Failure(f"the worker died {ATTEMPTS} times over this person", "run the same command again")

    while waiting or busy:
        while waiting and free:
            worker, task = free.pop(), waiting.popleft()
            attempts[task.who.number] += 1
            try:
                worker.begin(replace(task, who=task.who.brought()))
            except Died:
                yield from lost(task)
            except PmagicError as problem:  # a photo that could be read before
                free.append(worker)
                yield task.who, failure(problem)
            else:
                busy[worker] = task
        told(f"{len(busy)} people in work")
        for worker in wait(list(busy), LOOK):
            task = busy[worker]
            try:
                event = worker.event()
            except Died:
                del busy[worker]
                yield from lost(task)
                continue
            if isinstance(event, Result):
                busy[worker] = replace(task, kept={**task.kept, event.place: event.lasting})
            else:
                del busy[worker]
                free.append(worker)
            yield task.who, event
