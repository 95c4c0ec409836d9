"""Downloads without a working network, with real sockets: one message each, whichever HTTP client a library uses."""

import errno
import os
import socket
import subprocess
import sys
import types
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import local_hub
import pytest
from local_hub import LocalHub

from pmagic import network
from pmagic.bases import fetching, model_spec
from pmagic.bases.fetching import HUB, PACKS_HOST
from pmagic.datasets import lfw
from pmagic.errors import NotFound, StorageFailed, WeightsMissing

NO_NAME = "http://hub.invalid"  # RFC 2606: no name below it is ever given away
BASE = {
    "model_index.json": b'{"_class_name": "StableDiffusionPipeline"}',
    "unet/diffusion_pytorch_model.safetensors": os.urandom(100_000),
    "vae/diffusion_pytorch_model.safetensors": b"v" * 100,
    "text_encoder/model.safetensors": b"t" * 100,
    "tokenizer/vocab.json": b"{}",
}
OBSERVER = {"model.safetensors": b"o" * 50, "config.json": b"{}"}
REPOSITORIES = {
    "CompVis/stable-diffusion-v1-4": BASE,
    model_spec.CLIP_REPO: OBSERVER,
    model_spec.CLIPSEG_REPO: OBSERVER,
}
HALF = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n" + b"x" * 500
LOGIN_PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests in this file may connect to the loopback and look up a name that does not resolve; nothing else."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def local(self: socket.socket, address: object) -> None:
        if self.family != getattr(socket, "AF_UNIX", None) and address[0] != "127.0.0.1":
            pytest.fail(f"a test tried to connect to {address}")
        connect(self, address)

    def nowhere(host: str, *rest: object, **more: object) -> object:
        if host != "127.0.0.1" and not host.endswith(".invalid"):
            pytest.fail(f"a test looked up {host}")
        return look_up(host, *rest, **more)

    monkeypatch.setattr(socket.socket, "connect", local)
    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    monkeypatch.delenv("HF_HUB_OFFLINE")


@pytest.mark.parametrize("address", ["http://127.0.0.1:99999", "http://[::1", "nowhere", "ftp://127.0.0.1"])
def test_an_address_of_the_hub_that_is_none_is_no_defect(address: str) -> None:
    done = pull("sd14", HF_ENDPOINT=address)
    assert done.returncode == 7, done.stderr
    assert "next: check the connection and HF_ENDPOINT and run" in done.stderr


def test_only_the_variables_that_a_server_is_asked_through_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in network.variables():
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HF_ENDPOINT", NO_NAME)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    asked = {host: fetching._as_problem(ConnectionError(), host, "x", "").next_step for host in (HUB, PACKS_HOST)}
    assert asked[HUB].startswith("check the connection and HF_ENDPOINT and https_proxy and run")
    assert asked[PACKS_HOST].startswith("check the connection and https_proxy and run")


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with local_hub.serve(REPOSITORIES) as served:
        yield served


@pytest.fixture
def refused() -> Iterator[str]:
    """The address of a socket that is bound and does not listen."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def pull(name: str, **variables: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "pmagic", "models", "pull", name]
    return subprocess.run(words, capture_output=True, text=True, env={**os.environ, **variables}, timeout=120)


def test_a_hub_that_refuses_is_no_defect(refused: str) -> None:
    done = pull("sd14", HF_ENDPOINT=refused)
    assert done.returncode == 7, done.stderr
    assert "error: the hub cannot be reached (" in done.stderr and "refused" in done.stderr
    assert "next: check the connection and HF_ENDPOINT" in done.stderr


def test_a_name_that_does_not_resolve_is_no_defect() -> None:
    done = pull("sd14", HF_ENDPOINT=NO_NAME)
    assert done.returncode == 7, done.stderr
    assert "error: the hub cannot be reached (" in done.stderr


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"\r\n", "the hub cannot be reached ("),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "the hub cannot be reached ("),
        (HALF, "the hub cannot be reached ("),
        (LOGIN_PAGE, "its client failed with JSONDecodeError"),
        (BUSY, "the hub answered 503 Service Unavailable when asked for CompVis/stable-diffusion-v1-4"),
    ],
)
def test_an_answer_that_is_cut_or_strange_is_no_defect(hub: LocalHub, answer: bytes, said: str) -> None:
    hub.answer = answer
    done = pull("sd14", HF_ENDPOINT=hub.url)
    assert done.returncode == 7 and said in done.stderr, done.stderr


@pytest.mark.parametrize("proxy", ["foo://x", "socks5://127.0.0.1:1", "http://proxy.invalid:1"])
def test_a_proxy_that_cannot_be_used_is_named_by_its_variable(proxy: str) -> None:
    done = pull("sd14", HTTPS_PROXY=proxy)
    assert done.returncode == 7 and "and HTTPS_PROXY" in done.stderr, done.stderr


def test_a_repository_that_is_not_there_and_a_name_that_can_be_none(hub: LocalHub) -> None:
    for name in ("owner/repo", "owner/re--po"):
        done = pull(name, HF_ENDPOINT=hub.url)
        assert done.returncode == NotFound.exit_code, done.stderr
        assert f"no public repository '{name}'" in done.stderr


def test_a_download_cut_half_way_keeps_what_arrived_and_goes_on(hub: LocalHub) -> None:
    hub.cut = "unet/diffusion_pytorch_model.safetensors"
    done = pull("sd14", HF_ENDPOINT=hub.url)
    assert done.returncode == 7, done.stderr
    assert "the hub cannot be reached (" in done.stderr and "kept: the files that have arrived" in done.stderr
    assert model_spec.resolve("sd14").folder is None
    hub.cut = ""
    hub.fetched.clear()
    assert pull("sd14", HF_ENDPOINT=hub.url).returncode == 0
    of_base = [name for name in hub.fetched if name.startswith("CompVis/") and name.endswith(".safetensors")]
    assert of_base == ["CompVis/stable-diffusion-v1-4/unet/diffusion_pytorch_model.safetensors"]
    folder = model_spec.require_weights(model_spec.resolve("sd14")).folder
    assert {name: (folder / name).read_bytes() for name in BASE} == BASE


@pytest.mark.parametrize("way", ["refused", "no name", "cut"])
def test_a_face_pack_without_a_network(way: str, hub: LocalHub, refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from insightface.utils import storage

    hub.answer = HALF
    url = {"refused": refused, "no name": NO_NAME, "cut": hub.url}[way]
    monkeypatch.setattr(storage, "model_zoo_download_url", lambda name: f"{url}/{name}")
    with pytest.raises(WeightsMissing, match=r"insightface's server cannot be reached \(.+\), buffalo_l is not"):
        fetching.fetch(fetching.plan_downloads("buffalo_l")[0], show=False)
    assert model_spec.resolve("sd14").faces == "buffalo_l"


def fetch_lfw(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """scikit-learn's fetch with another address where it is installed; otherwise the same request by urllib."""
    try:
        from sklearn.datasets import _lfw
    except ImportError:
        stub = types.ModuleType("sklearn.datasets")
        stub.fetch_lfw_people = lambda data_home, **more: urllib.request.urlretrieve(url, Path(data_home) / "x.tgz")
        monkeypatch.setitem(sys.modules, "sklearn", types.ModuleType("sklearn"))
        monkeypatch.setitem(sys.modules, "sklearn.datasets", stub)
    else:
        for name in ("ARCHIVE", "FUNNELED_ARCHIVE"):
            monkeypatch.setattr(_lfw, name, getattr(_lfw, name)._replace(url=url))
        targets = [each._replace(url=url) for each in _lfw.TARGETS]
        monkeypatch.setattr(_lfw, "TARGETS", targets)
        monkeypatch.setattr("sklearn.datasets._base.time.sleep", lambda seconds: None)  # between its retries
    lfw.fetch()


@pytest.mark.parametrize("way", ["refused", "no name", "cut"])
def test_lfw_without_a_network(way: str, hub: LocalHub, refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.answer = HALF
    url = {"refused": refused, "no name": NO_NAME, "cut": hub.url}[way]
    with pytest.raises(WeightsMissing, match=r"the server of LFW cannot be reached \(.+\)") as caught:
        fetch_lfw(monkeypatch, f"{url}/lfw-funneled.tgz")
    assert "or give --root" in caught.value.next_step


def failing(error: BaseException) -> Callable[..., None]:
    def fail(*given: object, **more: object) -> None:
        raise error

    return fail


def test_a_full_disk_is_not_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", failing(full))
    order = fetching.DownloadPlan(
        repo="owner/repo",
        revision="main",
        licence="x",
        files=("a.json",),
        size=1,
        place=model_spec.place_of("owner/repo"),
    )
    with pytest.raises(StorageFailed, match="No space left"):
        fetching.fetch(order, show=False)
    stub = types.ModuleType("sklearn.datasets")
    stub.fetch_lfw_people = failing(full)
    monkeypatch.setitem(sys.modules, "sklearn", types.ModuleType("sklearn"))
    monkeypatch.setitem(sys.modules, "sklearn.datasets", stub)
    with pytest.raises(StorageFailed, match="cannot store LFW: No space left"):
        lfw.fetch()


def caused(error: BaseException, by: BaseException) -> BaseException:
    error.__cause__ = by
    return error


class OfAnotherClient(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "Connection reset by peer"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "Network is unreachable"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (urllib.error.URLError(TimeoutError("timed out")), "<urlopen error timed out>"),
        (caused(RuntimeError("retries"), TimeoutError("timed out")), "timed out"),
        (OfAnotherClient("gone"), "gone"),
        (PermissionError(errno.EACCES, "Permission denied"), ""),
        (OSError(errno.ENOSPC, "No space left on device"), ""),
        (caused(OSError(errno.ENOSPC, "No space left on device"), TimeoutError()), ""),
        (ValueError("a defect"), ""),
        (KeyError("a defect"), ""),
    ],
)
def test_the_networks_errors_are_known_by_their_family(error: BaseException, said: str) -> None:
    assert network.failure(error, (OfAnotherClient,)) == said


def test_an_error_that_is_its_own_cause_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert network.failure(first) == ""
