"""Every test has a library of its own and no network."""

import os
import signal

# Before anything imports torch: threads that spin while they wait make a step on a busy machine much slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from evaluated import eval_folder, people, prompts_file  # noqa: F401 - one fixture for all, or each file builds its own

from pmagic.library.store import Library
from pmagic.persona import REFERENCE_BOUNDS, Persona

if TYPE_CHECKING:
    from local_hub import LocalHub, Repositories

ORIGINAL_CONNECT, ORIGINAL_LOOK_UP = socket.socket.connect, socket.getaddrinfo
THREADS = torch.get_num_threads()
os.environ["HF_HUB_OFFLINE"] = "1"
import huggingface_hub.constants  # noqa: E402, F401 - reads it now, or the first test that asks the hub would decide


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PMAGIC_HOME of this test: never the person's own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("PMAGIC_HOME", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return folder


@pytest.fixture(autouse=True)
def all_threads() -> Iterator[None]:
    """Restores the number of threads: tests that lower it would change the last bits of later results."""
    yield
    torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for the network fails by name."""

    def refuse(self: socket.socket, address: object) -> None:
        if self.family != getattr(socket, "AF_UNIX", None):
            pytest.fail(f"a test tried to connect to {address}")
        original(self, address)

    original = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: pytest.fail(f"a test looked up {host}"))


@pytest.fixture
def hub_here(monkeypatch: pytest.MonkeyPatch) -> "Iterator[Callable[[Repositories], LocalHub]]":
    """Serves repositories to the hub's client in this process, over the loopback interface only."""
    import local_hub
    from huggingface_hub import constants

    connect, look_up = ORIGINAL_CONNECT, ORIGINAL_LOOK_UP

    def local(self: socket.socket, address: object) -> None:
        if self.family != getattr(socket, "AF_UNIX", None) and address[0] != "127.0.0.1":
            pytest.fail(f"a test tried to connect to {address}")
        connect(self, address)

    def nowhere(host: str, *rest: object, **more: object) -> object:
        return look_up(host, *rest, **more) if host == "127.0.0.1" else pytest.fail(f"a test looked up {host}")

    with contextlib.ExitStack() as stack:

        def serve(repositories: "Repositories") -> "LocalHub":
            hub = stack.enter_context(local_hub.serve(repositories))
            monkeypatch.setattr(socket.socket, "connect", local)
            monkeypatch.setattr(socket, "getaddrinfo", nowhere)
            monkeypatch.delenv("HF_HUB_OFFLINE")
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
            monkeypatch.setattr(constants, "ENDPOINT", hub.url)
            monkeypatch.setattr(
                constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
            )
            return hub

        yield serve


@pytest.fixture
def library(home: Path) -> Library:
    return Library(home / "library")


@pytest.fixture
def persona() -> Callable[..., Persona]:
    """Makes small personas; keywords replace fields."""

    def make(**fields: object) -> Persona:
        values: dict[str, object] = {
            "method": "personamagic",
            "base": "mini",
            "fingerprint": "a" * 64,
            "word": "face",
            "bounds": REFERENCE_BOUNDS,
            "tensors": {
                "mapper.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
                "image_embedding": np.linspace(-1, 1, 8, dtype=np.float16),
            },
            "settings": {"recipe": "reference", "iterations": 7, "learning_rate": 1e-3, "betas": [0.9, 0.999]},
            "losses": {"masked_mse": 0.25},
            "curve": ((800, 0.5), (400, 0.75)),
            "photos": ("b" * 64,),
        }
        return Persona(**{**values, **fields})

    return make


@pytest.fixture(autouse=True, scope="session")
def signals_as_on_a_terminal() -> None:
    """Restores Ctrl-C: a shell starts background jobs with it ignored, and every child process would inherit that."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(each) == signal.SIG_IGN:
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
