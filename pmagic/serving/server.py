"""Starts the server: its two listening sockets, the queue's workers, and a clean stop."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvicorn

from pmagic import settings
from pmagic.bases.offline import offline
from pmagic.errors import STOPPED_BY_PERSON, Busy, PmagicError, UsageError
from pmagic.serving import access, sameness, socket_file
from pmagic.serving.images_api import ImagesApi
from pmagic.serving.jobs import JobQueue
from pmagic.serving.local_api import LocalApi
from pmagic.serving.personas import PersonaCache
from pmagic.tasks import opened_bases
from pmagic.tasks.drawing import RenderOptions

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from pmagic.bases.model_spec import ModelSpec

LOOPBACK = "127.0.0.1"
CONNECTIONS = 64  # at once, besides those that wait in the queue
GRACE_SECONDS = 10  # for answers to clients that read slowly, once every drawing has ended
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """How the server runs. options: device (None: the configured one), number type and memory of its drawings.

    base: as of `render --base`. spec: the base to open at the start, None to wait for the first drawing.
    """

    port: int
    queue: int
    base: str | None
    spec: "ModelSpec | None"
    devices: Sequence[str]
    options: RenderOptions

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UsageError(f"--port must be 0 to 65535, not {self.port}", "leave it out for the usual one")
        if not 1 <= self.queue <= 10_000:
            raise UsageError(f"--queue must be 1 to 10000, not {self.queue}", "leave it out for the usual limit")


@dataclass(frozen=True, kw_only=True)
class Voice:
    """What the server tells whoever started it: that it listens, at which address, and one line for each drawing."""

    on_listening: Callable[[str], None]
    log: Callable[[str], None]
    on_defect: Callable[[Exception], PmagicError]


class _Server(uvicorn.Server):
    """A server that leaves signals to `_run`, which stops both servers and the workers."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(config: ServeSettings, token: str, voice: Voice) -> None:
    """Serves until a signal stops it. Raises Busy for a port or a socket in use, and what opening the base raises."""
    listener = _listen(config.port)
    with listener, socket_file.listening() as local, opened_bases.keep_open(), offline():
        handlers = {each: signal.getsignal(each) for each in SIGNALS}
        try:
            asyncio.run(_run(config, token, voice, listener, local))
        finally:
            for each, handler in handlers.items():
                signal.signal(each, handler)


async def _run(config: ServeSettings, token: str, voice: Voice, listener: socket.socket, local: socket.socket) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    queue = JobQueue(config.queue, voice.on_defect, voice.log)
    personas = PersonaCache(settings.library_dir())
    failures: list[PmagicError] = []

    def warm(device: str) -> None:
        """Imports the libraries and opens the base, in the worker's thread."""
        try:
            if config.spec is not None:
                opened_bases.open_base(config.spec, device=device, dtype=config.options.dtype)
                voice.log(f"{config.spec.name} is open on {device}")
        except Exception as error:
            failures.append(error if isinstance(error, PmagicError) else voice.on_defect(error))
            loop.call_soon_threadsafe(stop.set)

    images = ImagesApi(queue=queue, personas=personas, options=config.options, base=config.base)
    commands = LocalApi(
        queue=queue,
        personas=personas,
        devices=config.devices,
        dtype=config.options.dtype,
        folder=config.spec.folder if config.spec is not None and config.base is not None else None,
        environment=sameness.environment(),
    )
    servers = [_server(access.TokenRequired(images.app(), token), config), _server(commands.app(), config)]

    def on_signal() -> None:
        if stop.is_set():
            os._exit(STOPPED_BY_PERSON)  # the second one does not wait for the end of a step
        stop.set()

    for each in SIGNALS:
        loop.add_signal_handler(each, on_signal)
    running = [
        asyncio.ensure_future(server.serve(sockets=[each]))
        for server, each in zip(servers, (listener, local), strict=True)
    ]
    queue.start(config.devices, warm)
    voice.on_listening(f"http://{LOOPBACK}:{listener.getsockname()[1]}/v1")
    await asyncio.wait([asyncio.ensure_future(stop.wait()), *running], return_when=asyncio.FIRST_COMPLETED)
    voice.log("stopping at the end of this step; a second signal stops at once")
    queue.close()
    await asyncio.to_thread(queue.join)  # answers to their clients go out meanwhile
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*running)
    if failures:
        raise failures[0]


def _server(app: "ASGIApp", config: ServeSettings) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # the endpoints answer and log their defects themselves
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=config.queue + CONNECTIONS,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except OSError as error:
        listener.close()
        raise Busy(
            f"port {port} cannot be used: {error.strerror}", "give another one with --port, or 0 for any"
        ) from error
    listener.listen()
    return listener
