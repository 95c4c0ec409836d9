"""A pool of workers: each free worker takes the next subject. If a worker dies, only its unfinished result is lost.

Results are yielded as they come. A new worker takes the subject of a dead worker, with all its results so far.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from pmagic.errors import PmagicError
from pmagic.evaluation.harness import Event, Failure, Task, failure
from pmagic.evaluation.store import Result
from pmagic.evaluation.subject_run import Progress

ATTEMPTS = 3  # per subject; after that many dead workers the subject counts as failed
LOOK = 0.5  # seconds between two checks for a stop request


class Died(Exception):
    """A worker is dead or cannot be reached."""


class Worker(Protocol):
    """A process with its own EvalContext."""

    def submit(self, task: Task) -> None:
        """Start a subject. Raises Died."""

    def next_result(self) -> Result | Failure | None:
        """The next event of the subject, None when the subject is complete.

        Raises Died, or a PmagicError that stops the whole evaluation.
        """


Some = TypeVar("Some", bound=Worker)
Wait = Callable[[Sequence[Some], float], Sequence[Some]]  # (workers, timeout in seconds) -> the workers with an event


def run_tasks(
    todo: Sequence[Task], make: Callable[[], Some], count: int, wait: Wait[Some], progress: Progress
) -> Iterator[Event]:
    """Run all tasks on at most `count` workers, and yield their events in the order of arrival."""
    waiting = deque(todo)
    attempts = dict.fromkeys((task.who.number for task in todo), 0)
    free = [make() for _ in range(min(count, len(todo)))]
    busy: dict[Some, Task] = {}

    def replace_worker(task: Task) -> Iterator[Event]:
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
                worker.submit(replace(task, who=task.who.load_photos()))
            except Died:
                yield from replace_worker(task)
            except PmagicError as problem:  # a photo can no longer be read
                free.append(worker)
                yield task.who, failure(problem)
            else:
                busy[worker] = task
        progress(f"{len(busy)} people in work")
        for worker in wait(list(busy), LOOK):
            task = busy[worker]
            try:
                event = worker.next_result()
            except Died:
                del busy[worker]
                yield from replace_worker(task)
                continue
            if isinstance(event, Result):
                busy[worker] = replace(task, kept={**task.kept, event.place: event.lasting})
            else:
                del busy[worker]
                free.append(worker)
            yield task.who, event
