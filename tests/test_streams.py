"""Streams that are closed, full or broken, and locales without Unicode: real processes, no model."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from crowd import MAIN

from pmagic.library.store import Library
from pmagic.persona import Persona

Make = Callable[..., Persona]


def closing(streams: str, *words: str) -> subprocess.CompletedProcess:
    """The program with some of its streams closed, as a shell closes them: `>&-`, `2>&-`."""
    command = ["/bin/sh", "-c", f'exec "$@" {streams}', "sh", sys.executable, "-c", MAIN, *words]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_or_broken_stdout_gives_no_traceback(library: Library, persona: Make) -> None:
    library.save("alice", persona())
    command = [sys.executable, "-c", MAIN, "list"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 8
    assert os.strerror(errno.ENOSPC) in done.stderr
    assert "Traceback" not in done.stderr
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as broken:
        done = subprocess.run(command, stdout=broken, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 8
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="closes streams as a POSIX shell does")
def test_a_closed_stream_says_nothing_and_changes_nothing(library: Library, persona: Make, tmp_path: Path) -> None:
    library.save("alice", persona())
    for streams in (">&-", "<&- >&-", "<&- >&- 2>&-"):
        done = closing(streams, "list")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), streams
    done = closing("2>&-", "export", "alice", str(tmp_path / "a.pmagic"))
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'a.pmagic'}\n")
    assert library.import_archive(tmp_path / "a.pmagic", "bob").version == 1
    done = closing("2>&-", "show", "nobody")
    assert (done.returncode, done.stdout) == (3, "")
    done = closing("<&-", "render", "alice", "-")
    assert done.returncode == 2 and "standard input holds no prompt" in done.stderr


@pytest.mark.parametrize(
    ("locale", "said"),
    [
        ({"PYTHONIOENCODING": "ascii"}, rb"\u6751\u4e0a@1"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, rb"\xdce6\xdc9d\xdc91"),
    ],
)
def test_a_terminal_without_unicode_ends_no_command(
    library: Library, persona: Make, locale: dict[str, str], said: bytes
) -> None:
    library.save("村上", persona())
    command = [sys.executable, "-c", MAIN, "list"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, **locale})
    assert done.returncode == 0
    assert said in done.stdout


def test_json_is_json_in_any_locale_and_holds_nothing_that_a_terminal_obeys(library: Library, persona: Make) -> None:
    library.save("zoë", persona(word="\x9b31m\u202egnp"))
    command = [sys.executable, "-c", MAIN, "show", "zoë", "--json"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.stdout.isascii()
    document = json.loads(done.stdout)
    assert (document["persona"], document["word"]) == ("zoë@1", "\x9b31m\u202egnp")
    command[-2] = "nobodÿ"
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 3 and "nobodÿ" in json.loads(done.stdout)["what"]
