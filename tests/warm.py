"""Seconds of one drawing: by a command alone, by the second command of a shell, by `render` while a server runs.

python -m tests.warm [ROUNDS] [OPTIONS OF RENDER ...]       (in an empty folder, with PMAGIC_HOME; learns alice on mini)

The ways take turns, and the median of each is printed with its smallest and largest. CPU is that of the command itself.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pmagic

PMAGIC = [sys.executable, "-m", "pmagic"]
PORTRAIT = Path(pmagic.__file__).parent / "mini" / "portraits" / "alice.png"
FAST = ["--iterations", "20", "--recipe", "reference", "--stages", "300:700"]


def run(words: list[str]) -> tuple[float, float]:
    """Wall seconds and CPU seconds of a command."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*PMAGIC, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def second_of_a_shell(words: list[str]) -> tuple[float, float]:
    """The same for the second command of a shell: from its line to the printed path."""
    line = " ".join(f'"{word}"' for word in words) + "\n"
    shell = subprocess.Popen([*PMAGIC, "shell"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert shell.stdin is not None and shell.stdout is not None
    seconds = cpu = 0.0
    for _ in range(2):
        start, before = time.monotonic(), _cpu_of(shell.pid)
        shell.stdin.write(line)
        shell.stdin.flush()
        assert shell.stdout.readline().endswith(".png\n")
        seconds, cpu = time.monotonic() - start, _cpu_of(shell.pid) - before
    shell.stdin.close()
    shell.wait()
    return seconds, cpu


def through_a_server(words: list[str]) -> tuple[float, float]:
    """As `run`, while a server runs that has drawn once."""
    server = subprocess.Popen([*PMAGIC, "serve", "--port", "0", "--json"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    text = ""
    while not text.endswith("}\n"):
        text += server.stdout.readline()
    assert json.loads(text)["base"] == "mini"
    run(words)
    before = _cpu_of(server.pid)
    seconds, cpu = run(words)
    cpu += _cpu_of(server.pid) - before
    server.terminate()
    server.wait()
    return seconds, cpu


def _cpu_of(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    rounds, options = int((sys.argv[1:2] or ["3"])[0]), sys.argv[2:]
    if not (Path(os.environ["PMAGIC_HOME"]) / "library" / "alice").is_dir():
        run(["learn", str(PORTRAIT), "--name", "alice", "--base", "mini", *FAST])
    words = ["render", "alice", "as a cowboy", "--out", "warm", *options]
    ways = {"a command alone": run, "the second of a shell": second_of_a_shell, "through a server": through_a_server}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way(words))
    print("| | seconds (min to max) | CPU seconds |\n|---|---|---|")
    for name, values in found.items():
        walls, cpus = zip(*values, strict=True)
        wall = f"{statistics.median(walls):.1f} ({min(walls):.1f} to {max(walls):.1f})"
        print(f"| {name} | {wall} | {statistics.median(cpus):.1f} |")


if __name__ == "__main__":
    main()
