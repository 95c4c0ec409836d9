"""`pmagic shell`: the same commands in one process, the base opened once; errors and Ctrl-C end one command only."""

# ruff: noqa: F811 - the arguments of a test have the names of its fixtures

import io
import os
import pty
import signal
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_cli_learning import alice, base, photo  # noqa: F401 - fixtures
from test_signals import limited
from tiny import tiny_folders  # noqa: F401 - a fixture
from typer.main import get_command
from typer.testing import CliRunner

from pmagic import settings
from pmagic.bases import loading
from pmagic.cli.app import app
from pmagic.cli.shell import Program
from pmagic.library.store import Library
from pmagic.persona import Persona
from pmagic.tasks import opened_bases

runner = CliRunner()


def shell(*lines: str) -> object:
    return runner.invoke(app, ["shell"], input="".join(f"{line}\n" for line in lines))


def test_two_drawings_open_the_base_once_and_give_the_bytes_of_two_commands(
    alice: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render = 'render alice "as a cowboy" --steps 2 --out'
    for words in (["--out", str(tmp_path / "cold")], ["--seed", "1", "--out", str(tmp_path / "cold")]):
        assert runner.invoke(app, ["render", "alice", "as a cowboy", "--steps", "2", *words]).exit_code == 0
    opened, load = [], loading.load
    monkeypatch.setattr(loading, "load", lambda *words, **options: opened.append(words) or load(*words, **options))
    done = shell(f"{render} {tmp_path / 'warm'}", f"pmagic {render} {tmp_path / 'warm'} --seed 1")
    assert (done.exit_code, len(opened)) == (0, 1), done.stderr
    assert len(done.stdout.split()) == 2
    for each in (tmp_path / "cold").iterdir():
        assert each.read_bytes() == (tmp_path / "warm" / each.name).read_bytes()
    assert not opened_bases.are_kept()


def test_errors_end_one_command_and_the_last_one_decides_the_exit_code(
    library: Library, persona: Callable[..., Persona]
) -> None:
    library.save("alice", persona())
    done = shell("show nobody", "nonsense", 'list "', "# a comment", "", "shell", "list -q", "exit", "show nobody")
    assert (done.exit_code, done.stdout) == (0, "alice@1\n")
    for message in (
        "there is no persona 'nobody'",
        "No such command 'nonsense'",
        "no closing quotation",
        "a shell already",
    ):
        assert done.stderr.count(message) == 1, message
    assert shell("list -q", "show nobody").exit_code == 3
    assert shell('list "').exit_code == 2
    assert "Commands:" in shell("help").stdout and shell().exit_code == 0


def test_words_are_completed_as_in_any_shell(
    library: Library, persona: Callable[..., Persona], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.save("alice", persona())
    library.save("alan", persona())
    program = Program(get_command(app))
    assert program.complete("sh") == ["shell", "show"]
    assert program.complete("e") == ["eval", "exit", "export"]
    assert program.complete("show al") == ["alan", "alice"]
    assert program.complete("learn x.png --recipe ref") == ["reference"]
    assert "--scheduler" in program.complete("render alice x --s")
    monkeypatch.chdir(tmp_path)
    Path("photo.png").touch()
    assert program.complete("learn ph") == ["photo.png"]
    assert "_PMAGIC_COMPLETE" not in os.environ


class Terminal:
    """A shell on a terminal of its own."""

    def __init__(self) -> None:
        self.fd, other = pty.openpty()
        words = [sys.executable, "-m", "pmagic", "shell"]
        variables = {**os.environ, "TERM": "dumb"}
        self.process = limited(words, stdin=other, stdout=other, stderr=other, env=variables, start_new_session=True)
        os.close(other)
        self.text = ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def until(self, text: str) -> None:
        """Reads up to this text, which may not have been there before."""
        give_up = time.monotonic() + 100
        while text not in self.text:
            assert time.monotonic() < give_up, self.text
            self.text += os.read(self.fd, 4096).decode(errors="replace")
        self.text = self.text.partition(text)[2]


def test_on_a_terminal_ctrl_c_ends_the_command_alone_and_the_history_is_private(alice: Library, tmp_path: Path) -> None:
    terminal = Terminal()
    terminal.until("pmagic> ")
    terminal.type("show al\t -q\n")  # Tab completes the only name
    terminal.until("alice@1")
    terminal.until("pmagic> ")
    terminal.type("nonsense")
    terminal.until("nonsense")
    time.sleep(0.5)  # the line editor looks for signals while it waits for a key, not while it reads one
    terminal.process.send_signal(signal.SIGINT)  # drops the line
    terminal.until("pmagic> ")
    terminal.type(f"render alice x -n 500 --out {tmp_path / 'out'}\n")
    while len(list((tmp_path / "out").glob("*.png"))) < 2:
        time.sleep(0.02)
    terminal.process.send_signal(signal.SIGINT)
    terminal.until("of 500 pictures")
    terminal.until("pmagic> ")
    terminal.type("list -q\n")
    terminal.until("alice@1")
    terminal.until("pmagic> ")
    terminal.type("\x04")
    assert terminal.process.wait(60) == 0
    history = settings.state_dir() / "shell-history"
    lines = history.read_text().splitlines()
    assert lines[0].split() == ["show", "alice", "-q"] and lines[-1] == "list -q"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


@pytest.mark.parametrize("busy", [False, True], ids=["at the prompt", "while it draws"])
def test_termination_ends_the_shell_and_not_only_its_command(alice: Library, tmp_path: Path, busy: bool) -> None:
    terminal = Terminal()
    terminal.until("pmagic> ")
    if busy:
        terminal.type(f"render alice x -n 500 --out {tmp_path / 'out'}\n")
        while len(list((tmp_path / "out").glob("*.png"))) < 2:
            time.sleep(0.02)
    terminal.process.send_signal(signal.SIGTERM)
    if busy:
        terminal.until("of 500 pictures")
    assert terminal.process.wait(60) == 130


def test_input_that_is_no_terminal_shows_no_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("methods -q\n"))
    assert "pmagic>" not in runner.invoke(app, ["shell"], input="methods -q\n").output
