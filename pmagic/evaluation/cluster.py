"""Subjects distributed over a Ray cluster: one worker per GPU, or per CPU core without GPUs. Ray is an extra."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from pmagic import methods
from pmagic.bases import memory_estimate, model_spec
from pmagic.errors import OutOfMemory, PmagicError, UsageError
from pmagic.evaluation import eval_context, harness, worker_pool
from pmagic.evaluation.eval_config import EvalConfig
from pmagic.evaluation.harness import Event, Failure, Task, Workers
from pmagic.evaluation.store import Result
from pmagic.evaluation.subject_run import Progress, SubjectRun
from pmagic.evaluation.worker_pool import Died

_MEMORY = 256 * 1024**2  # bytes of the local cluster's object store; the results are small
_PROGRAM = 10**9  # bytes of a worker's libraries and observers, besides the memory for learning


class Actor:
    """A worker process of the cluster. It keeps no checkpoint: the next one may run on a machine with another disk."""

    def __init__(self, config: EvalConfig, fingerprint: str) -> None:
        self.open = partial(eval_context.open_context, config, fingerprint)
        self.context: eval_context.EvalContext | None = None

    def events(self, task: Task) -> Iterator[Result | Failure | PmagicError | None]:
        try:
            self.context = self.context or self.open()  # opened here, so that errors reach the caller
            yield from harness.run_subject(
                partial(SubjectRun, context=self.context, who=task.who, kept=dict(task.kept))
            )
        except PmagicError as problem:
            yield problem


class _Remote:
    """The worker that `worker_pool` uses: it sends tasks to an Actor and reads its events."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.stream: Any = None

    def submit(self, task: Task) -> None:
        self.stream = self.actor.events.options(num_returns="streaming").remote(task)

    def next_result(self) -> Result | Failure | None:
        import ray  # pyright: ignore[reportMissingImports]  # an extra
        from ray.exceptions import RayError  # pyright: ignore[reportMissingImports]  # an extra

        try:
            found = ray.get(next(self.stream))
        except RayError as error:
            raise Died from error
        if isinstance(found, PmagicError):
            raise found
        return found


def require() -> None:
    """Raise UsageError if Ray is not installed."""
    try:
        import ray  # noqa: F401  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError as error:
        raise UsageError(
            "`--workers ray` needs Ray, which is not installed", "install it with `pip install ray`"
        ) from error


def spread(config: EvalConfig, fingerprint: str, progress: Progress) -> Workers:
    """Workers on the cluster at RAY_ADDRESS, or on a local cluster that runs only during the evaluation."""

    def events(todo: Sequence[Task]) -> Iterator[Event]:
        import ray  # pyright: ignore[reportMissingImports]  # an extra

        _join()
        try:
            there = [each["Resources"] for each in ray.nodes() if each["Alive"]]
            gpu = config.device != "cpu" and any(each.get("GPU") for each in there)
            memory = _PROGRAM if gpu else _PROGRAM + most_memory(config)
            kind = ray.remote(num_cpus=1, num_gpus=int(gpu), memory=memory, max_restarts=0)(Actor)
            make = lambda: _Remote(kind.remote(config, fingerprint))  # noqa: E731
            yield from worker_pool.run_tasks(todo, make, places(there, gpu, memory), _ready, progress)
        finally:
            ray.shutdown()

    return events


def most_memory(config: EvalConfig) -> int:
    """The approximate memory in bytes of the models and of the largest learning batch of the evaluation."""
    base = model_spec.resolve(config.base)
    return max(
        memory_estimate.memory_to_learn(
            base,
            each.learn.batch,
            trained=methods.take(each.method).count_weights(base, each.learn),
            decodes=each.learn.looks_at_faces,
            texts=methods.texts_per_sample(methods.take(each.method), base),
        )
        for each in eval_context.variants_of(config, base)
    )


def places(machines: Sequence[Mapping[str, float]], gpu: bool, memory: int) -> int:
    """The number of workers that fit on the cluster. machines: Ray's resources of each machine: CPU, GPU, memory.

    Raises OutOfMemory if no worker fits, because Ray would wait forever.
    """
    rooms = [
        min(each.get("CPU", 0), each.get("memory", 0) // memory, *([each.get("GPU", 0)] if gpu else []))
        for each in machines
    ]
    if not sum(rooms):
        most = max((each.get("memory", 0) for each in machines), default=0)
        raise OutOfMemory(
            f"a worker takes a core and about {memory / 1e9:.1f} GB of memory, no machine of the cluster has both: "
            f"the largest has {most / 1e9:.1f} GB",
            "add a machine to the cluster, or use a smaller base",
        )
    return int(sum(rooms))


def _join() -> None:
    """Connect to Ray, without a dashboard and without usage statistics."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray  # pyright: ignore[reportMissingImports]  # an extra

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        with _without_web():
            ray.init(address="local", include_dashboard=False, object_store_memory=_MEMORY, **quiet)


@contextmanager
def _without_web() -> Iterator[None]:
    """Processes started inside this context send their HTTP requests to a closed local port.

    Ray queries the addresses of three cloud providers to learn whether it runs there, even without dashboard and usage
    statistics. Ray's own processes do not communicate over HTTP.
    """
    names = ("http_proxy", "https_proxy", "no_proxy")
    names = (*names, *map(str.upper, names))
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: "" if "no" in name.lower() else "http://127.0.0.1:9" for name in names})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _ready(workers: Sequence[_Remote], seconds: float) -> list[_Remote]:
    import ray  # pyright: ignore[reportMissingImports]  # an extra

    of = {each.stream: each for each in workers}
    found, _ = ray.wait(list(of), num_returns=1, timeout=seconds)
    return [of[stream] for stream in found]
