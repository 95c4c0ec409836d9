"""Workers: whichever worker does the work, or is killed, the summary has the same bytes."""

import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny import faced_folder, tiny_folders  # noqa: F401 - fixtures

from pmagic.datasets import Individual
from pmagic.errors import OutOfMemory
from pmagic.evaluation import cluster, processes, worker_pool
from pmagic.evaluation.eval_config import EvalConfig, EvalSubject
from pmagic.evaluation.harness import Failure, Task
from pmagic.evaluation.store import Result
from pmagic.evaluation.subject_run import Progress
from pmagic.evaluation.worker_pool import Died

SUMMARIES = ("summary.csv", "results.json", "report.html", "people.csv", "pareto.png", "heatmap.png")


class Scripted:
    """A worker with known events: three results a person, fewer if some are stored; it dies at a given step."""

    def __init__(self, deaths: Iterator[int]) -> None:
        self.left, self.deaths = [], deaths

    def submit(self, task: Task) -> None:
        self.left = [Result(str(k), {"a": b"x"}, 0.0) for k in range(3) if str(k) not in task.kept]
        self.dies_after = next(self.deaths, 99)

    def next_result(self) -> Result | Failure | None:
        if self.dies_after == 0:
            raise Died
        self.dies_after -= 1
        return self.left.pop(0) if self.left else None


def tasks(count: int) -> list[Task]:
    return [
        Task(
            EvalSubject(
                number=number,
                name=f"p{number}",
                source=Individual(name="x", learned=()),
                hashes=(),
                files=(),
                learned=0,
            ),
            {},
        )
        for number in range(1, count + 1)
    ]


def test_a_dead_workers_person_goes_on_from_what_is_kept() -> None:
    deaths = iter([2, 99, 0, 1])
    events = list(
        worker_pool.run_tasks(
            tasks(3), lambda: Scripted(deaths), 2, lambda workers, seconds: workers[:1], lambda doing: None
        )
    )
    for number in (1, 2, 3):
        mine = [event.place if event else "done" for who, event in events if who.number == number]
        assert mine == ["0", "1", "2", "done"]


def test_a_person_who_kills_every_worker_fails_alone() -> None:
    deaths = iter([0, 0, 0])
    events = list(
        worker_pool.run_tasks(
            tasks(2), lambda: Scripted(deaths), 1, lambda workers, seconds: workers, lambda doing: None
        )
    )
    failed = [who.number for who, event in events if isinstance(event, Failure)]
    assert failed == [1]
    assert [event for who, event in events if who.number == 2][-1] is None


class Endless:
    """A run whose steps only the other end can finish."""

    def __init__(self, context: object, who: EvalSubject, kept: object, progress: Progress, scratch: Path) -> None:
        self.progress = progress

    def results(self) -> Iterator[Result]:
        for _ in range(500):
            self.progress("learning")
            time.sleep(0.01)
        yield Result("0", {}, 0.0)


def test_a_worker_leaves_at_the_next_step_when_the_other_end_is_gone(monkeypatch, tmp_path: Path) -> None:
    here, theirs = multiprocessing.Pipe()
    monkeypatch.setattr(processes.eval_context, "open_context", lambda config, fingerprint: None)
    monkeypatch.setattr(processes, "SubjectRun", Endless)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    here.send(tasks(1)[0])
    threading.Timer(0.3, here.close).start()
    begun = time.monotonic()
    with pytest.raises(SystemExit):
        processes._serve(theirs, None, "", tmp_path)
    assert 0.2 < time.monotonic() - begun < 3


@pytest.fixture
def command(eval_folder: Path, people: Path, prompts_file: Path, tmp_path: Path) -> Callable[..., subprocess.Popen]:
    """Starts a real `pmagic eval` of three people, in a process group of its own."""

    def start(out: Path, *more: str) -> subprocess.Popen:
        words = [
            "--dataset", "folder", "--root", people, "--prompts", prompts_file, "--base", eval_folder, "--out", out,
            "--people", "3", "-n", "2", "--quiet",
        ]  # fmt: skip
        root = str(Path(worker_pool.__file__).parents[2])
        return subprocess.Popen(
            [sys.executable, "-m", "pmagic", "eval", *map(str, words), *more],
            env={**os.environ, "PYTHONPATH": root, "RAY_USAGE_STATS_ENABLED": "0"},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    return start


def finished(process: subprocess.Popen) -> None:
    _, progress = process.communicate(timeout=600)
    assert process.returncode == 0, progress


def summaries(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in SUMMARIES}


def wait_for_results(process: subprocess.Popen, out: Path) -> None:
    """Until two prompts are drawn; the work must be going on then."""
    while sum(1 for _ in out.rglob("cell.json")) < 2:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    assert process.poll() is None


def children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent:
                found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_it_ends_in_the_same_bytes(command, tmp_path: Path) -> None:
    """Twenty kills of the real program, spread over its running time; then it runs to its end."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    begun = time.monotonic()
    finished(command(whole))
    length = time.monotonic() - begun
    source = random.Random(7)
    for _ in range(20):
        process = command(out)
        time.sleep(source.uniform(0.3, 1.1) * length)
        if process.poll() is None:
            process.send_signal(source.choice([signal.SIGKILL, signal.SIGTERM]))
        process.communicate(timeout=600)
        assert process.returncode in (0, -signal.SIGKILL, -signal.SIGTERM, 130)
    finished(command(out))
    assert summaries(out) == summaries(whole)
    assert not any((out / ".unfinished").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["personamagic", "all"])
def test_two_processes_one_of_them_killed(command, tmp_path: Path, method: str) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    finished(command(whole, "--method", method))
    process = command(out, "--workers", "2", "--method", method)
    wait_for_results(process, out)
    # The resource tracker of multiprocessing is a child, too; it does not name the worker's entry point.
    workers = [pid for pid in children(process.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    finished(process)
    assert summaries(out) == summaries(whole)


@pytest.mark.slow
def test_no_process_outlives_the_command(command, eval_folder: Path, tmp_path: Path) -> None:
    """Workers in the middle of a long learning, and the command killed; then one that ends by itself."""
    config = eval_folder / "pmagic.toml"
    usual = config.read_text()
    config.write_text(usual.replace("iterations = 2\n", "iterations = 1000000\n", 1))
    try:
        process = command(tmp_path / "out", "--workers", "2", "--recipe", "reference")
        while not any((tmp_path / "out").glob(".unfinished/*")):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        workers = children(process.pid)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 20
        while (left := [pid for pid in workers if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left
    finally:
        config.write_text(usual)
    process = command(tmp_path / "other", "--workers", "2", "--recipe", "reference")
    _, progress = process.communicate(timeout=600)
    assert process.returncode == 0 and "leaked" not in progress, progress


def test_a_cluster_takes_as_many_workers_as_its_machines_have_room_for() -> None:
    small, large, idle = {"CPU": 2.0, "memory": 9e9}, {"CPU": 16.0, "memory": 64e9, "GPU": 2.0}, {"memory": 64e9}
    assert cluster.places([small, large, idle], gpu=False, memory=4 * 10**9) == 2 + 16
    assert cluster.places([small, large, idle], gpu=False, memory=8 * 10**9) == 1 + 8
    assert cluster.places([small, large, idle], gpu=True, memory=10**9) == 2


def test_a_cluster_has_room_for_the_method_that_takes_most(eval_folder: Path) -> None:
    def needs(*methods: str) -> int:
        config = EvalConfig(
            base=str(eval_folder), dataset="folder", methods=methods, recipes=("reference",), ablation="",
            prompts=("{}",), iterations=None, photos="", pictures=1, seed=0, device="cpu", dtype="auto",
        )  # fmt: skip
        return cluster.most_memory(pickle.loads(pickle.dumps(config)))

    assert needs("textual_inversion") < needs("personamagic")
    assert needs("textual_inversion", "personamagic") == needs("personamagic")


@pytest.mark.parametrize("machines", [[], [{"CPU": 2.0, "memory": 3e9}, {"CPU": 0.0, "memory": 64e9}]])
def test_a_cluster_without_room_for_one_is_told_and_not_waited_for(machines: list[dict[str, float]]) -> None:
    with pytest.raises(OutOfMemory, match=r"about 4.0 GB of memory, no machine of the cluster has both"):
        cluster.places(machines, gpu=False, memory=4 * 10**9)


@pytest.mark.slow
def test_a_local_ray_cluster_one_worker_killed(command, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    whole, out = tmp_path / "whole", tmp_path / "out"
    finished(command(whole))
    process = command(out, "--workers", "ray")
    wait_for_results(process, out)
    actors = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _is_actor_of(entry, process.pid)
    ]
    assert actors, "no worker of the cluster was found"
    os.kill(actors[0], signal.SIGKILL)
    finished(process)
    assert summaries(out) == summaries(whole)


def _is_actor_of(entry: Path, driver: int) -> bool:
    """Whether the process is a Ray worker that descends from the driver."""
    try:
        if not (entry / "cmdline").read_bytes().startswith(b"ray::Actor"):
            return False
        pid = int(entry.name)
        while pid > 1:
            if pid == driver:
                return True
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return False
    return False
