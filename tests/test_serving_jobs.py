"""The queue of the server: order, limit, one worker for each device, cancelling, defects, a clean stop."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from pmagic.errors import Busy, NumericFailure, PmagicError
from pmagic.serving import jobs
from pmagic.serving.jobs import Event, Job, JobQueue, Stopping


def make(limit: int = 8, log: Callable[[str], None] = lambda line: None) -> JobQueue:
    return JobQueue(limit, lambda error: PmagicError(f"a defect: {error}"), log)


def run(scenario: Callable[[JobQueue], Awaitable[None]], queue: JobQueue, *devices: str) -> None:
    """Runs the scenario with the queue's workers, and ends them."""

    async def main() -> None:
        queue.start(devices or ("cpu",), lambda device: None)
        try:
            await asyncio.wait_for(scenario(queue), 20)
        finally:
            queue.close()
            await asyncio.to_thread(queue.join)

    asyncio.run(main())


async def events(job: Job, gone: "asyncio.Future[None] | None" = None) -> list[Event]:
    gone = gone or asyncio.get_running_loop().create_future()
    return [each async for each in job.events(gone, tick=0.05) if each[0] != jobs.TICK]


def test_jobs_are_drawn_one_after_the_other_in_their_order() -> None:
    drawn, at_once, lock = [], [], threading.Lock()

    def work(job: Job, device: str) -> None:
        assert lock.acquire(blocking=False), "two drawings share the device"
        at_once.append(device)
        time.sleep(0.01)
        drawn.append(job.who)
        job.emit("picture", job.who)
        lock.release()

    async def scenario(queue: JobQueue) -> None:
        submitted = [queue.submit(Job(name, 1, work)) for name in "abcde"]
        assert [await events(each) for each in submitted] == [[("picture", name), ("end", None)] for name in "abcde"]

    run(scenario, make())
    assert drawn == list("abcde") and set(at_once) == {"cpu"}


def test_each_device_has_a_worker_of_its_own() -> None:
    both = threading.Barrier(2, timeout=10)
    devices = set()

    def work(job: Job, device: str) -> None:
        both.wait()  # passes only where two workers draw at the same time
        devices.add(device)

    async def scenario(queue: JobQueue) -> None:
        first, second = (queue.submit(Job("a", 1, work)) for _ in range(2))
        assert await asyncio.gather(events(first), events(second)) == [[("end", None)]] * 2

    run(scenario, make(), "cuda:0", "cuda:1")
    assert devices == {"cuda:0", "cuda:1"}


def test_the_queue_has_a_limit_and_counts_no_cancelled_job() -> None:
    release = threading.Event()

    async def scenario(queue: JobQueue) -> None:
        first = queue.submit(Job("a", 1, lambda job, device: (release.wait(10), None)[1]))
        while first not in queue.running:
            await asyncio.sleep(0.01)
        second, third = (queue.submit(Job("b", 1, lambda job, device: None)) for _ in range(2))
        assert [queue.ahead_of(each) for each in (first, second, third)] == [0, 1, 2]
        with pytest.raises(Busy, match="2 drawings are waiting, which is the limit"):
            queue.submit(Job("c", 1, lambda job, device: None))
        second.cancel()
        assert queue.ahead_of(third) == 1 and queue.waiting() == [third]
        fourth = queue.submit(Job("d", 1, lambda job, device: None))
        release.set()
        assert await events(fourth) == [("end", None)]

    run(scenario, make(limit=2))


def test_a_client_that_leaves_ends_the_drawing_at_its_step() -> None:
    steps, log = [], []

    def work(job: Job, device: str) -> None:
        with job.progress("drawing") as advance:
            for step in range(10_000):
                time.sleep(0.001)
                advance(step, 10_000, "")
                steps.append(step)

    async def scenario(queue: JobQueue) -> None:
        job, gone = queue.submit(Job("a", 1, work)), asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.1, gone.set_result, None)
        assert await events(job, gone) == []
        after = queue.submit(Job("b", 1, lambda job, device: None))
        assert await events(after) == [("end", None)]
        while queue.running:  # the worker forgets a job just after it has said that it ended
            await asyncio.sleep(0.01)
        assert 0 < len(steps) < 10_000

    run(scenario, make(log=log.append))
    assert log[0] == "a: cancelled, nobody waits for it"


def test_problems_and_defects_reach_the_client_and_the_worker_goes_on() -> None:
    def fail(job: Job, device: str) -> None:
        raise NumericFailure("the picture holds NaN")

    async def scenario(queue: JobQueue) -> None:
        (kind, problem), *rest = await events(queue.submit(Job("a", 1, fail)))
        assert (kind, type(problem), rest) == ("problem", NumericFailure, [])
        (kind, problem), *rest = await events(queue.submit(Job("a", 1, lambda job, device: [][1])))
        assert (kind, problem.what, rest) == ("problem", "a defect: list index out of range", [])
        assert await events(queue.submit(Job("a", 1, lambda job, device: None))) == [("end", None)]

    run(scenario, make())


def test_a_stop_answers_everyone_and_takes_no_more() -> None:
    def work(job: Job, device: str) -> None:
        with job.progress("drawing") as advance:
            while True:
                time.sleep(0.001)
                advance(1, 2, "")

    async def scenario(queue: JobQueue) -> None:
        submitted = [queue.submit(Job(name, 1, work)) for name in "abc"]
        waiting = [asyncio.ensure_future(events(each)) for each in submitted]
        while not queue.running:
            await asyncio.sleep(0.01)
        queue.close()
        for each in waiting:
            ((kind, problem),) = await each
            assert kind == "problem" and isinstance(problem, Stopping)
        with pytest.raises(Stopping):
            queue.submit(Job("d", 1, work))

    run(scenario, make())


def test_a_client_that_reads_nothing_loses_its_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "STALLED", 0.5)

    def work(job: Job, device: str) -> None:
        for number in range(100):
            job.emit("picture", number)

    async def scenario(queue: JobQueue) -> None:
        queue.submit(Job("a", 1, work))
        start = time.monotonic()
        assert await events(queue.submit(Job("b", 1, lambda job, device: None))) == [("end", None)]
        assert 0.4 < time.monotonic() - start < 10

    run(scenario, make())
