"""Times whole commands from outside, in a library of many personas."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

MAIN = "import sys; sys.argv[0] = 'pmagic'; from pmagic.cli.app import main; main()"
SETTINGS = {"recipe": "paper", "iterations": 1000, "seed": 3, "templates": ["a photo of a {}"] * 40}


def run(*words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", MAIN, *words], capture_output=True, text=True, env={**os.environ, **environment}
    )


def seconds_of(*words: str, **environment: str) -> float:
    """Processor time of the fastest of five runs, so that a busy machine does not count."""
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run(*words, **environment).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def fill(library: Path, files: Mapping[str, bytes], numbers: Iterable[int]) -> None:
    """Put person00000 and so on into a library's folder, all with the same files."""
    for number in numbers:
        folder = library / f"person{number:05d}" / "v0001"
        folder.mkdir(parents=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
