"""Subjects distributed over processes of this machine. Each process has its own EvalContext."""

import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path

from pmagic.errors import PmagicError
from pmagic.evaluation import eval_context, harness, worker_pool
from pmagic.evaluation.eval_config import EvalConfig
from pmagic.evaluation.harness import Event, Failure, Task, Workers
from pmagic.evaluation.store import Result
from pmagic.evaluation.subject_run import Progress, SubjectRun
from pmagic.evaluation.worker_pool import Died

GRACE = 10  # seconds for a worker to finish its step


class _Process:
    """A worker process with a pipe. If one end dies, the other end finds the pipe closed."""

    def __init__(self, config: EvalConfig, fingerprint: str, scratch: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, config, fingerprint, scratch), daemon=True)
        self.process.start()
        theirs.close()

    def submit(self, task: Task) -> None:
        try:
            self.pipe.send(task)
        except OSError as error:
            raise Died from error

    def next_result(self) -> Result | Failure | None:
        try:
            found = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise Died from error
        if isinstance(found, PmagicError):
            raise found
        return found


def spread(config: EvalConfig, fingerprint: str, count: int, scratch: Path, progress: Progress) -> Workers:
    """At most `count` worker processes; all end with the evaluation. scratch: the folder for learning checkpoints."""

    def events(todo: Sequence[Task]) -> Iterator[Event]:
        made: list[_Process] = []

        def make() -> _Process:
            made.append(_Process(config, fingerprint, scratch))
            return made[-1]

        try:
            yield from worker_pool.run_tasks(todo, make, count, _ready, progress)
        finally:
            for each in made:
                each.pipe.close()
            # A process that exits by itself also releases the resources that libraries share between processes.
            for each in made:
                each.process.join(GRACE)
                each.process.terminate()
                each.process.join()

    return events


def _ready(workers: Sequence[_Process], seconds: float) -> list[_Process]:
    of: dict[object, _Process] = {each.pipe: each for each in workers}
    return [of[pipe] for pipe in wait([each.pipe for each in workers], seconds)]


def _serve(pipe: Connection, config: EvalConfig, fingerprint: str, scratch: Path) -> None:
    """Process incoming tasks until the pipe is closed. Ctrl-C is ignored here; the parent process handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def report(doing: str) -> None:
        if pipe.poll():  # no task is sent during a task, so the pipe is closed
            sys.exit()

    try:
        try:
            own = eval_context.open_context(config, fingerprint)
            while True:
                task = pipe.recv()
                for event in harness.run_subject(
                    partial(
                        SubjectRun, context=own, who=task.who, kept=dict(task.kept), progress=report, scratch=scratch
                    )
                ):
                    pipe.send(event)
        except PmagicError as problem:
            pipe.send(problem)
    except (EOFError, OSError):
        pass
