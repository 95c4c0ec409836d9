"""A real `pmagic serve` in a process of its own, on the tiny base, for tests; and clients that may reach it."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
from conftest import ORIGINAL_CONNECT, ORIGINAL_LOOK_UP
from typer.testing import CliRunner

from pmagic.cli.app import app

SECONDS = 240  # after which a server is killed, so that no test waits for ever
FAST = ["--iterations", "2", "--recipe", "reference"]


@dataclass
class Server:
    process: subprocess.Popen
    url: str
    token: str
    socket: Path
    log: Path

    def client(self, **options: Any) -> Any:
        import openai

        return openai.OpenAI(base_url=self.url, api_key=self.token, **{"max_retries": 0, "timeout": 100, **options})

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)

    def memory(self) -> int:
        """Bytes of the process that are in memory (Linux)."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


@contextmanager
def serving(folder: Path, *options: str, prefix: tuple[str, ...] = ()) -> Iterator[Server]:
    """Starts a server with the library and the runtime folder that the environment names. folder: for its output."""
    folder.mkdir(parents=True, exist_ok=True)
    log, out = folder / "serve.log", folder / "serve.json"
    with log.open("w") as errors, out.open("w") as output:
        words = [*prefix, sys.executable, "-m", "pmagic", "serve", "--port", "0", "--json", *options]
        process = subprocess.Popen(words, stdout=output, stderr=errors, stdin=subprocess.DEVNULL)
    timer = threading.Timer(SECONDS, process.kill)
    timer.daemon = True
    timer.start()
    try:
        about = wait_for(lambda: json.loads(out.read_text() or "null"), process, log)
        token = Path(about["token_file"]).read_text()
        yield Server(process, about["url"], token, Path(about["socket"]), log)
    finally:
        timer.cancel()
        process.kill()
        process.wait()


def wait_for(look: Callable[[], Any], process: subprocess.Popen | None = None, log: Path | None = None) -> Any:
    """What `look` gives once that is true."""
    give_up = time.monotonic() + 120
    while True:
        try:
            if found := look():
                return found
        except ValueError:  # half of a document
            pass
        ended = process is not None and process.poll() is not None
        assert not ended and time.monotonic() < give_up, log.read_text() if log else ""
        time.sleep(0.02)


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets this test connect to this machine, and to nothing else."""

    def local(self: socket.socket, address: object) -> None:
        if self.family != getattr(socket, "AF_UNIX", None) and address[0] != "127.0.0.1":
            pytest.fail(f"a test tried to connect to {address}")
        ORIGINAL_CONNECT(self, address)

    def nowhere(host: str, *rest: object, **more: object) -> object:
        return ORIGINAL_LOOK_UP(host, *rest, **more) if host == "127.0.0.1" else pytest.fail(f"looked up {host}")

    monkeypatch.setattr(socket.socket, "connect", local)
    monkeypatch.setattr(socket, "getaddrinfo", nowhere)


@pytest.fixture(scope="module")
def shared_home(tiny_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a library with alice and bob, and of a runtime folder; made once for a file of tests."""
    folder = tmp_path_factory.mktemp("served")
    with tempfile.TemporaryDirectory(prefix="pm") as runtime, pytest.MonkeyPatch.context() as patch:
        values = {"PMAGIC_HOME": str(folder / "home"), "XDG_RUNTIME_DIR": runtime}
        for name, value in values.items():
            patch.setenv(name, value)
        tiny.photo(3).save(folder / "photo.png")
        for name, seed in (("alice", "0"), ("bob", "5")):
            words = ["learn", str(folder / "photo.png"), "--name", name, "--seed", seed, *FAST]
            done = CliRunner().invoke(app, [*words, "--base", str(tiny_folders["sd1"])])
            assert done.exit_code == 0, done.stderr
        yield values


@pytest.fixture
def at_home(shared_home: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch, loopback: None) -> None:
    """This test has the shared library, and may connect to this machine."""
    for name, value in shared_home.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def shared_server(shared_home: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for a file of tests. A test must leave it running."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in shared_home.items():
            patch.setenv(name, value)
        with serving(tmp_path_factory.mktemp("server")) as server:
            yield server
