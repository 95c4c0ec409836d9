"""People spread over processes of this machine, each with a bench of its own."""

import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path

from pmagic.errors import Problem
from pmagic.evaluation import bench, crew, harness
from pmagic.evaluation.crew import Died, Worker
from pmagic.evaluation.harness import Event, Failure, Task, Workers
from pmagic.evaluation.order import Order
from pmagic.evaluation.sitting import Sitting, Told
from pmagic.evaluation.store import Result

GRACE = 10  # seconds for a worker to come to the end of its step


class _Process:
    """A worker at the other end of a pipe. Whichever end dies, the other finds the pipe closed."""

    def __init__(self, order: Order, fingerprint: str, scratch: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, order, fingerprint, scratch), daemon=True)
        self.process.start()
        theirs.close()

    def begin(self, task: Task) -> None:
        try:
            self.pipe.send(task)
        except OSError as error:
            raise Died from error

    def event(self) -> Result | Failure | None:
        try:
            found = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise Died from error
        if isinstance(found, Problem):
            raise found
        return found


def spread(order: Order, fingerprint: str, count: int, scratch: Path, told: Told) -> Workers:
    """At most `count` processes; none outlives the evaluation. scratch: for checkpoints of learnings in work."""

    def events(todo: Sequence[Task]) -> Iterator[Event]:
        made: list[_Process] = []

        def make() -> Worker:
            made.append(_Process(order, fingerprint, scratch))
            return made[-1]

        try:
            yield from crew.carried_out(todo, make, count, _ready, told)
        finally:
            for each in made:
                each.pipe.close()
            for (
                each
            ) in made:  # who leaves by itself leaves nothing behind of what the libraries share between processes
                each.process.join(GRACE)
                each.process.terminate()
                each.process.join()

    return events


def _ready(workers: Sequence[Worker], seconds: float) -> list[Worker]:
    of = {each.pipe: each for each in workers}
    return [of[pipe] for pipe in wait(list(of), seconds)]


def _serve(pipe: Connection, order: Order, fingerprint: str, scratch: Path) -> None:
    """Works off the tasks that come, until nobody sends any more. A Ctrl-C is for the other end to obey."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def told(doing: str) -> None:
        if pipe.poll():  # nothing is ever sent while a person is in work: the other end is closed
            sys.exit()

    try:
        try:
            own = bench.opened(order, fingerprint)
            while True:
                task = pipe.recv()
                for event in harness.guarded(partial(Sitting, own, task.who, dict(task.kept), told, scratch)):
                    pipe.send(event)
        except Problem as problem:
            pipe.send(problem)
    except (EOFError, OSError):
        pass
