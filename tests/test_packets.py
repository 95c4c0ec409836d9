"""No verb sends a packet: seen from outside, by the system calls of the process and all its threads and children."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pmagic.library.store import Library

ROOT = Path(__file__).parent.parent
PORTRAITS = ROOT / "pmagic" / "mini" / "portraits"
# A connection or a datagram over IP. Binding to ::1, by which urllib3 asks whether IPv6 is here, sends nothing.
_SENDS = re.compile(
    r"(?:connect|sendto|sendmsg|sendmmsg)\(.*(?:AF_INET6?|sin6?_addr)|sendto\(\d+, .*MSG_NOSIGNAL, NULL"
)
FAST = ("--base", "mini", "--stages", "300:700", "--iterations", "2", "--recipe")

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not on this machine")


def traced(home: Path, *words: str, python: bool = False) -> list[str]:
    """The system calls of one command that send something over IP; the command must succeed."""
    log = home / "calls.txt"
    program = [sys.executable, *(["-c"] if python else ["-m", "pmagic"])]
    command = ["strace", "-f", "-qq", "-e", "trace=network", "-o", str(log), *program, *words]
    variables = {
        key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "ORT_DISABLE_TELEMETRY")
    }
    done = subprocess.run(
        command, cwd=home, env={**variables, "PMAGIC_HOME": str(home), "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [line for line in log.read_text(errors="replace").splitlines() if _SENDS.search(line)]


def test_the_trace_sees_a_packet(tmp_path: Path) -> None:
    code = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'x', ('127.0.0.1', 9))"
    assert traced(tmp_path, code, python=True)


def test_learning_and_drawing_with_the_face_pack_send_nothing(tmp_path: Path) -> None:
    """Long enough for onnxruntime's telemetry, which looks its host up seconds after a model was opened."""
    assert traced(tmp_path, "learn", str(PORTRAITS / "alice.png"), "--name", "alice", *FAST, "paper") == []
    assert Library(tmp_path / "library").load("alice")
    assert traced(tmp_path, "render", "alice", "as a cowboy", "--steps", "2") == []
    code = (
        "import time, pmagic; from pmagic.bases import card; from pmagic.engine import portraits\n"
        f"from PIL import Image; photo = Image.open({str(PORTRAITS / 'alice.png')!r}).convert('RGB')\n"
        "portraits.opened(card.find('mini')).find(photo)\n"
        "time.sleep(6)"
    )
    assert traced(tmp_path, code, python=True) == []


@pytest.mark.slow
def test_no_other_verb_sends_anything(tmp_path: Path) -> None:
    photo = str(PORTRAITS / "alice.png")
    assert traced(tmp_path, "learn", photo, "--name", "alice", *FAST, "reference") == []
    boxed = ("--background", photo, "--box", "0,0,64,64")
    for words in (
        ("probe", photo, "--base", "mini"),
        ("compose", "{alice} at sea", *boxed, "--steps", "2", "--out", "c.png"),
        ("list",), ("show", "alice"), ("verify", "--all"), ("path",), ("info", "c.png"), ("gallery",),
        ("export", "alice"), ("cp", "alice", "bob"), ("mv", "bob", "carl"), ("rm", "carl"),
        ("import", "alice.pmagic", "--as", "dora"), ("models", "list"), ("config", "path"), ("--help",),
        ("eval", "--dataset", "world", "--base", "mini", "--people", "1", "-n", "1", "--dry-run"),
    ):  # fmt: skip
        assert traced(tmp_path, *words) == [], words
