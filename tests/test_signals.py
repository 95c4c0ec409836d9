"""Signals: the first one stops at the next step and saves, the second leaves at once; outside of steps, a message."""

# ruff: noqa: F811 - the arguments of a test have the names of its fixtures

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_cli_learning import alice, base, photo, render  # noqa: F401 - fixtures
from test_cli_resuming import FAST
from tiny import tiny_folders  # noqa: F401 - a fixture
from typer.testing import CliRunner

from pmagic import pictures
from pmagic.cli.app import app
from pmagic.library import unfinished
from pmagic.library.store import Library

runner = CliRunner()
SECONDS = 150  # after which a child is killed, so that no test waits for ever


def limited(words: list[str], **options: Any) -> subprocess.Popen:
    process = subprocess.Popen(words, **options)
    timer = threading.Timer(SECONDS, process.kill)
    timer.daemon = True
    timer.start()
    return process


def start(photo: Path, base: str, name: str, iterations: int = 400, **options: object) -> subprocess.Popen:
    words = ["learn", str(photo), "--base", base, *FAST, str(iterations), "--name", name]
    return limited(
        [sys.executable, "-m", "pmagic", *words],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options},
    )


def until_checkpoint(process: subprocess.Popen, library: Library, name: str) -> None:
    give_up = time.monotonic() + 90
    while not list((library.root / ".unfinished" / name).glob("*.checkpoint")):
        assert process.poll() is None and time.monotonic() < give_up, process.communicate()
        time.sleep(0.01)


def test_hang_up_saves_and_twice_ctrl_c_leaves_at_once_and_resume_takes_the_name(
    library: Library, photo: Path, base: str, tmp_path: Path
) -> None:
    hung_up = start(photo, base, "alice")
    until_checkpoint(hung_up, library, "alice")
    hung_up.send_signal(signal.SIGHUP)
    assert hung_up.wait(60) == 130
    twice = start(photo, base, "bob")
    until_checkpoint(twice, library, "bob")
    twice.send_signal(signal.SIGINT)
    twice.send_signal(signal.SIGINT)
    stderr = twice.communicate(timeout=60)[1]
    assert twice.returncode == 130 and "Traceback" not in stderr
    assert unfinished.resumable_names(library.root) == ["alice", "bob"]
    several = runner.invoke(app, ["learn", "--resume"])
    assert several.exit_code == 2 and "several learnings were stopped: alice, bob" in several.stderr
    photo.write_bytes(photo.read_bytes() + b"another")  # and the photo is another one now
    changed = runner.invoke(app, ["learn", "--resume", "--name", "alice"])
    assert changed.exit_code == 6 and "it was started with another input: the photo" in changed.stderr
    assert unfinished.resumable_names(library.root) == ["alice", "bob"]


def test_stopped_by_a_signal_the_same_command_goes_on_to_the_same_bytes(
    home: Path, library: Library, photo: Path, base: str
) -> None:
    words = ["learn", str(photo), "--base", base, "--iterations", "70", "--recipe", "reference", "--name"]
    command = [sys.executable, "-m", "pmagic", *words, "alice"]
    process = limited(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    saved = library.root / ".unfinished" / "alice"
    give_up = time.monotonic() + 90
    while not list(saved.glob("*.checkpoint")):
        assert process.poll() is None and time.monotonic() < give_up, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert stderr.startswith("learning alice was stopped after ")
    assert "to continue from there: pmagic learn --resume --name alice" in stderr
    assert library.names() == []
    resumed = runner.invoke(app, ["learn", "--resume"])
    assert resumed.stdout == "alice@1\n", resumed.stderr
    assert not list(library.root.rglob("*.checkpoint"))
    assert runner.invoke(app, [*words, "whole"]).exit_code == 0
    one, two = (library.root / name / "v0001" / "tensors.safetensors" for name in ("alice", "whole"))
    assert one.read_bytes() == two.read_bytes()


def test_stopped_while_drawing_keeps_the_finished_pictures(
    alice: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = pictures.write_picture

    def write_then_stop(image: Image.Image, path: Path, story: dict) -> Path:
        found = written(image, path, story)
        os.kill(os.getpid(), signal.SIGINT)
        return found

    monkeypatch.setattr(pictures, "write_picture", write_then_stop)
    done = render("alice", "x", "-n", "3", "--seed", "5", "--exact", out=tmp_path / "out")
    assert done.exit_code == 130
    assert "stopped after 1 of 3 pictures" in done.stderr
    assert "--seed 6 -n 2" in done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_outside_of_any_step_ends_with_a_message_too(number: int) -> None:
    code = (
        "import time; from pmagic.library.store import Library; "
        "Library.summaries = lambda self: (print('there', flush=True), time.sleep(60)); "
        "from pmagic.cli.app import main; import sys; sys.argv = ['pmagic', 'list']; main()"
    )
    process = limited([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "there\n"
    process.send_signal(number)
    stderr = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert stderr.startswith("stopped\n  kept: ") and "Traceback" not in stderr


def test_on_a_terminal_the_first_ctrl_c_is_answered(make_terminal: Callable[[], tuple[int, int]]) -> None:
    code = (
        "import time; from pmagic.cli.stopping import stop_at_step\n"
        "with stop_at_step() as check:\n print('there', flush=True); time.sleep(0.5)\n"
    )
    reader, writer = make_terminal()
    process = limited([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=writer, text=True)
    assert process.stdout is not None and process.stdout.readline() == "there\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert b"a second Ctrl-C stops at once" in os.read(reader, 1000)


@pytest.fixture
def make_terminal() -> Callable[[], tuple[int, int]]:
    return pty.openpty


def test_a_suite_in_the_background_has_its_childrens_ctrl_c(tmp_path: Path) -> None:
    """A shell starts background jobs with Ctrl-C ignored, which every child process would inherit."""
    (tmp_path / "conftest.py").write_text((Path(__file__).parent / "conftest.py").read_text())
    (tmp_path / "test_x.py").write_text(
        "import signal, subprocess, sys\n"
        "def test_x():\n"
        "    code = 'import signal; raise SystemExit(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)'\n"
        "    assert subprocess.run([sys.executable, '-c', code]).returncode == 0\n"
    )
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    ignore = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)  # noqa: E731
    done = subprocess.run(
        words,
        cwd=tmp_path,
        preexec_fn=ignore,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert done.returncode == 0, done.stdout
