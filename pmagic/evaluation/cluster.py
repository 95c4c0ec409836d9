"""People spread over a Ray cluster: one worker a GPU, or a core where there is none. Ray is an extra."""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from pmagic.errors import Problem, UsageProblem
from pmagic.evaluation import bench, crew, harness
from pmagic.evaluation.crew import Died, Worker
from pmagic.evaluation.harness import Event, Failure, Task, Workers
from pmagic.evaluation.order import Order
from pmagic.evaluation.sitting import Sitting, Told
from pmagic.evaluation.store import Result

_MEMORY = 256 * 1024**2  # bytes of the local cluster's object store: results are small


class Actor:
    """Lives in a process of the cluster. It keeps no checkpoint: the next one may be on a machine with another disk."""

    def __init__(self, order: Order, fingerprint: str) -> None:
        self.open = partial(bench.opened, order, fingerprint)
        self.bench: bench.Bench | None = None

    def events(self, task: Task) -> Iterator[Result | Failure | Problem | None]:
        try:
            self.bench = self.bench or self.open()  # here, where a problem can be told
            yield from harness.guarded(partial(Sitting, self.bench, task.who, dict(task.kept)))
        except Problem as problem:
            yield problem


class _Remote:
    """A worker as the crew sees it."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.stream: Any = None

    def begin(self, task: Task) -> None:
        self.stream = self.actor.events.options(num_returns="streaming").remote(task)

    def event(self) -> Result | Failure | None:
        import ray
        from ray.exceptions import RayError

        try:
            found = ray.get(next(self.stream))
        except RayError as error:
            raise Died from error
        if isinstance(found, Problem):
            raise found
        return found


def require() -> None:
    """Raises UsageProblem where Ray is not installed."""
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise UsageProblem(
            "`--workers ray` needs Ray, which is not installed", "install it with `pip install 'pmagic[cluster]'`"
        ) from error


def spread(order: Order, fingerprint: str, told: Told) -> Workers:
    """Workers of the cluster at RAY_ADDRESS, or of one on this machine that is started for this and ended after."""

    def events(todo: Sequence[Task]) -> Iterator[Event]:
        import ray

        _join()
        try:
            there = ray.cluster_resources()
            gpus = int(there.get("GPU", 0)) if order.device != "cpu" else 0
            kind = ray.remote(num_cpus=1, num_gpus=min(gpus, 1), max_restarts=0)(Actor)
            count = gpus or int(there.get("CPU", 1))
            make = lambda: _Remote(kind.remote(order, fingerprint))  # noqa: E731
            yield from crew.carried_out(todo, make, count, _ready, told)
        finally:
            ray.shutdown()

    return events


def _join() -> None:
    """Without a dashboard, and without telling anybody that it runs."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        ray.init(address="local", include_dashboard=False, object_store_memory=_MEMORY, **quiet)


def _ready(workers: Sequence[Worker], seconds: float) -> list[Worker]:
    import ray

    of = {each.stream: each for each in workers}
    found, _ = ray.wait(list(of), num_returns=1, timeout=seconds)
    return [of[stream] for stream in found]
