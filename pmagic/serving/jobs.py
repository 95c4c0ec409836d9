"""The queue of drawings, and one worker thread for each device. A drawing is stopped at the end of its step."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pmagic.errors import Busy, PmagicError
from pmagic.tasks.reporting import Advance

Event = tuple[str, Any]  # what happened, and its value; the last one of a job is END or PROBLEM
END, PROBLEM, WARNING, TICK = "end", "problem", "warning", "tick"
Work = Callable[["Job", str], None]  # draws for the job on the device of that name

STALLED = 60.0  # seconds after which a client that reads nothing loses its drawing: others wait for the device
_BUFFERED = 8  # events of a job that wait for its client; a worker waits when there are more
_numbers = itertools.count(1)


class Cancelled(Exception):
    """The client of a job has gone, or the server stops. Raised in the worker, at the end of a step."""


class Stopping(PmagicError):
    """The server takes no more work."""

    exit_code = Busy.exit_code


class Job:
    """One drawing, from its place in the queue to its end. It is the reporter of its own task."""

    talks = True

    def __init__(self, who: str, count: int, work: Work) -> None:
        """who, count: the persona and the number of pictures, for the queue. Made in the event loop that reads it."""
        self.number = next(_numbers)
        self.who, self.count, self.work = who, count, work
        self.done, self.steps, self.remark = 0, 0, ""
        self.started: float | None = None
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue(_BUFFERED)
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """The worker gives this job up at the end of its step; a job that has ended stays as it is."""
        self._cancelled.set()

    def emit(self, kind: str, value: Any = None) -> None:
        """Hands an event to the client, from the worker. Waits while the client is slow. Raises Cancelled."""
        give_up = time.monotonic() + STALLED
        waiting = asyncio.run_coroutine_threadsafe(self._events.put((kind, value)), self._loop)
        while True:
            try:
                return waiting.result(timeout=0.2)
            except TimeoutError as late:
                if self.cancelled or time.monotonic() > give_up:
                    waiting.cancel()
                    self.cancel()
                    raise Cancelled from late

    def say(self, text: str) -> None:
        """A client sees progress and warnings only."""

    def warn(self, text: str) -> None:
        self.emit(WARNING, text)

    @contextmanager
    def progress(self, what: str) -> Iterator[Advance]:
        def advance(done: int, total: int, remark: str) -> None:
            self.done, self.steps, self.remark = done, total, remark
            if self.cancelled:
                raise Cancelled

        yield advance

    async def events(self, gone: "asyncio.Future[Any]", tick: float = 1.0) -> AsyncIterator[Event]:
        """The job's events up to its end, and TICK after each `tick` seconds without one.

        gone: done when the client has gone; then the job is cancelled, as it is when the caller leaves early.
        """
        reading: asyncio.Task[Event] | None = None
        try:
            while not gone.done():
                reading = reading or asyncio.ensure_future(self._events.get())
                await asyncio.wait({reading, gone}, timeout=tick, return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    yield (TICK, None)
                    continue
                event, reading = reading.result(), None
                yield event
                if event[0] in (END, PROBLEM):
                    return
        finally:
            self.cancel()
            if reading is not None:
                reading.cancel()


class JobQueue:
    """Jobs in the order in which they came, at most `limit` of them waiting, and a worker for each device."""

    def __init__(self, limit: int, on_defect: Callable[[Exception], PmagicError], log: Callable[[str], None]) -> None:
        """on_defect: makes the problem that the client is shown of an unexpected exception."""
        self.limit, self.on_defect, self._log = limit, on_defect, log
        self.running: list[Job] = []
        self._waiting: list[Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self._workers: list[threading.Thread] = []

    def start(self, devices: Sequence[str], warm: Callable[[str], None]) -> None:
        """Starts the workers. warm: called in each worker with its device, before the first job."""
        for device in devices:
            worker = threading.Thread(target=self._serve, args=(device, warm), name=f"worker {device}", daemon=True)
            self._workers.append(worker)
            worker.start()

    def submit(self, job: Job) -> Job:
        """Raises Busy where too many wait, and Stopping."""
        with self._changed:
            self._drop_cancelled()
            if self._closed:
                raise Stopping("the server is stopping", "start it again with `pmagic serve`")
            if len(self._waiting) >= self.limit:
                raise Busy(f"{self.limit} drawings are waiting, which is the limit", "try again in a moment")
            self._waiting.append(job)
            self._changed.notify()
        return job

    def ahead_of(self, job: Job) -> int:
        """How many drawings come before this one."""
        with self._changed:
            self._drop_cancelled()
            waiting = self._waiting.index(job) if job in self._waiting else 0
            return 0 if job in self.running or job not in self._waiting else waiting + len(self.running)

    def waiting(self) -> list[Job]:
        with self._changed:
            self._drop_cancelled()
            return list(self._waiting)

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Takes no more jobs, answers those that wait, and stops those that run at the end of their step."""
        with self._changed:
            self._closed = True
            for job in self.running:
                job.cancel()
            self._changed.notify_all()

    def join(self) -> None:
        for worker in self._workers:
            worker.join()

    def _serve(self, device: str, warm: Callable[[str], None]) -> None:
        warm(device)
        while True:
            with self._changed:
                self._drop_cancelled()
                while not self._waiting and not self._closed:
                    self._changed.wait()
                    self._drop_cancelled()
                if not self._waiting:
                    return
                job = self._waiting.pop(0)
                self.running.append(job)
            try:
                self._run(job, device)
            finally:
                with self._changed:
                    self.running.remove(job)

    def _run(self, job: Job, device: str) -> None:
        job.started = time.monotonic()
        last: Event = (END, None)
        try:
            if self._closed:
                raise Cancelled
            job.work(job, device)
        except Cancelled:
            last = (PROBLEM, Stopping("the server was stopped", "start it again with `pmagic serve`"))
        except PmagicError as problem:
            last = (PROBLEM, problem)
        except Exception as error:
            last = (PROBLEM, self.on_defect(error))
        seconds = time.monotonic() - job.started
        outcome = f"{type(last[1]).__name__}: {last[1]}" if last[0] == PROBLEM else f"{job.count} in {seconds:.2g} s"
        left = job.cancelled and not self._closed
        self._log(f"{job.who}: {'cancelled, nobody waits for it' if left else outcome}")
        if not left:
            try:
                job.emit(*last)
            except Cancelled:
                self._log(f"{job.who}: nobody waits for it any more")

    def _drop_cancelled(self) -> None:
        self._waiting = [job for job in self._waiting if not job.cancelled]
