"""Serves the page of a study and keeps the choices, each on the disk before it is acknowledged.

There are three things to ask for: the page with the access token, the page with the cookie that this gives, and to keep
choices. A choice is a line in answers/PARTICIPANT.jsonl. It does not know what the page shows.
"""

import errno
import hashlib
import hmac
import json
import os
import re
import secrets
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pmagic import atomic_io
from pmagic.errors import Busy, StorageFailed, UsageError
from pmagic.study import answers, folder, page
from pmagic.study.folder import Study

MAX_BODY = 256 << 10  # bytes of a request
MAX_PARTICIPANTS = 10_000
SECONDS = 15.0  # for a client to say what it wants, and to take each piece of the reply
MAX_WAITING = 250  # connections that have not said yet what they want; a further one is closed
_PIECE = 64 << 10  # bytes of a reply
_TOKEN = re.compile(r"[\w-]{16,}", re.ASCII)
Warn = Callable[[str], None]
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Answers:
    """The files of the participants. Many threads may append at once; those of one participant take turns."""

    def __init__(self, root: Path, study: Study) -> None:
        self._root, self._study = root, study
        self._questions = {each.id for each in study.questions}
        self._locks: dict[str, threading.Lock] = {}
        self._entered: set[str] = set()  # participants whose file's entry in the folder is on the disk
        self._guard = threading.Lock()

    def append(self, request: object) -> int:
        """Keep the choices of a request on the disk. Returns the highest number among them.

        Raises answers.Refused for anything else than choices in this study, and OSError.
        """
        if not isinstance(request, dict) or request.get("study") != self._study.id:
            raise answers.Refused("it is of another study")
        participant = answers.check_participant(request.get("participant"))
        made = answers.check_choices(request.get("choices"), self._questions)
        if not made:
            raise answers.Refused("it has no choice")
        lines = b""
        for each in made:
            line = {"study": self._study.id, "participant": participant, **each.as_dict()}
            lines += json.dumps(line).encode() + b"\n"
        with self._turn(participant) as path:
            _append(path, lines, most=MAX_BODY * answers.MAX_CHOICES)
            if participant not in self._entered:
                atomic_io.sync_folder(self._root)
                self._entered.add(participant)
        return max(each.n for each in made)

    @contextmanager
    def _turn(self, participant: str) -> Iterator[Path]:
        path = self._root / f"{participant}.jsonl"
        with self._guard:
            if participant not in self._locks:
                if not path.exists() and sum(1 for _ in self._root.iterdir()) >= MAX_PARTICIPANTS:
                    raise answers.Refused(f"there are {MAX_PARTICIPANTS} participants already")
                self._locks[participant] = threading.Lock()
            lock = self._locks[participant]
        with lock:
            yield path


def _append(path: Path, lines: bytes, most: int) -> None:
    """Append to a file of at most `most` bytes, and flush it to the disk. A line that a kill has cut off is ended."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), atomic_io.FILE_MODE)
    try:
        size = os.fstat(descriptor).st_size
        if size + len(lines) > most:
            raise answers.Refused("this participant has made too many choices")
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            lines = b"\n" + lines
        rest = memoryview(lines)
        while rest:
            rest = rest[os.write(descriptor, rest) :]  # a short write is legal
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def access_token(root: Path) -> str:
    """The access token of the study in this folder, a new one the first time. Raises StorageFailed."""
    path = root / folder.TOKEN
    with atomic_io.storing(f"the access token {path}"):
        if not path.exists():
            atomic_io.replace_file(path, secrets.token_urlsafe(24).encode())
        token = path.read_bytes().strip().decode(errors="replace")
    if not _TOKEN.fullmatch(token):
        raise StorageFailed(f"{path} holds no access token", "delete this file, and serve again")
    return token


class Server(ThreadingHTTPServer):
    """A server of one study. Closing it waits for the choices that it is keeping, and for nothing else."""

    daemon_threads = False
    block_on_close = True

    def __init__(
        self, address: tuple[str, int], *, html: bytes, kept: Answers, token: str, study: str, warn: Warn
    ) -> None:
        self.html, self.kept, self.token, self.warn = html, kept, token, warn
        self.cookie = f"pmagic-study-{study}"
        # It must outlive a restart, and the token must not be found in it.
        self.session = hmac.new(token.encode(), b"session", hashlib.sha256).hexdigest()
        self.is_closing = False
        self._waiting: dict[socket.socket, float] = {}  # connections not read yet, and until when each may take
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a thread of its own, if not too many clients keep the server waiting."""
        if len(self._waiting) >= MAX_WAITING:
            self.shutdown_request(request)
            return
        self._waiting[request] = time.monotonic() + SECONDS
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """End the requests that take too long: a client may send a byte now and then. Called twice a second."""
        now = time.monotonic()
        self._stop_reading(each for each, end in list(self._waiting.items()) if now > end)

    def note_read(self, request: socket.socket) -> None:
        """The request of this connection is read."""
        self._waiting.pop(request, None)

    def shutdown_request(self, request: Any) -> None:
        self.note_read(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        self.is_closing = True
        self._stop_reading(list(self._waiting))
        super().server_close()

    @staticmethod
    def _stop_reading(connections: Iterable[socket.socket]) -> None:
        for each in connections:
            with suppress(OSError):  # it ended at this moment
                each.shutdown(socket.SHUT_RD)

    def server_bind(self) -> None:
        """Bind to the address, without looking up its name as http.server does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report a defect. A client that went away is no error."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            self.warn(f"a request failed: {type(error).__name__}: {error}")


@contextmanager
def open_server(root: Path, host: str, port: int, warn: Warn) -> Iterator[Server]:
    """A server of the study in `root`, ready to `serve_forever`. The folder is locked; port 0 takes a free one.

    warn: called, from any thread, with what went wrong in a request. Raises NotFound, Incompatible, Busy (the folder or
    the port is in use), StorageFailed, UsageError (no such host).
    """
    import filelock

    study = folder.read(root)
    html = page.allow_sending(folder.page_path(root).read_bytes())
    token = access_token(root)
    with atomic_io.storing(f"the answers in {root}"):
        atomic_io.make_folder(root / folder.ANSWERS)
        lock = filelock.FileLock(root / ".lock", timeout=0, mode=atomic_io.FILE_MODE)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise Busy(f"another pmagic serves {root}", "stop it first, or use its address") from error
    try:
        try:
            kept = Answers(root / folder.ANSWERS, study)
            server = Server((host, port), html=html, kept=kept, token=token, study=study.id, warn=warn)
        except socket.gaierror as error:
            raise UsageError(
                f"--host cannot be {host!r}: {error.strerror}", "give an address of this machine"
            ) from error
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise UsageError(f"{host} is no address of this machine", "give --host one that it has") from error
            raise Busy(
                f"{host}, port {port}, cannot be used: {error.strerror or error}", "give another --port"
            ) from error
        try:
            yield server
        finally:
            server.server_close()
    finally:
        lock.release()


class _Handler(BaseHTTPRequestHandler):
    """One request for each connection (HTTP/1.0), so that no idle client holds a thread."""

    server: Server
    timeout = SECONDS
    server_version, sys_version = "pmagic", ""

    def do_GET(self) -> None:
        self.server.note_read(self.connection)
        path, token = _path_and_token(self.path)
        if path == "/" and token and _same(token, self.server.token):
            cookie = f"{self.server.cookie}={self.server.session}; Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000"
            self._reply(HTTPStatus.SEE_OTHER, headers={"Location": "/", "Set-Cookie": cookie})
        elif not self._invited():
            self._reply(HTTPStatus.FORBIDDEN, b"Please open the whole address that you were given.\n")
        elif path == "/":
            self._reply(HTTPStatus.OK, self.server.html, "text/html; charset=utf-8")
        else:
            self._reply(HTTPStatus.NOT_FOUND, b"There is nothing else here.\n")

    def do_POST(self) -> None:
        # Read before any refusal: a connection that is closed with bytes unread is reset, and the reply may be lost.
        body = self._read_body()
        self.server.note_read(self.connection)
        if not self._invited():
            self._reply(HTTPStatus.FORBIDDEN)
        elif self.path != "/answers":
            self._reply(HTTPStatus.NOT_FOUND)
        elif self.headers.get_content_type() != "application/json":  # a page of another site cannot send this
            self._reply(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        elif body is None:
            self._reply(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            self._keep(body)

    def _read_body(self) -> bytes | None:
        """The body of the request; None if it is too large, or of unknown length."""
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdecimal() or len(length) > 9 or int(length) > MAX_BODY:
            return None
        return self.rfile.read(int(length))

    def _keep(self, body: bytes) -> None:
        try:
            kept = self.server.kept.append(answers.parse(body))
        except answers.Refused as reason:
            self._reply(HTTPStatus.BAD_REQUEST, f"{reason}\n".encode())
        except OSError as error:  # the page keeps what is not acknowledged, and sends it again
            self.server.warn(f"answers cannot be written, and wait in the participant's browser: {error.strerror}")
            self._reply(HTTPStatus.INSUFFICIENT_STORAGE, b"The answers cannot be written.\n")
        else:
            self._reply(HTTPStatus.OK, json.dumps({"kept": kept}).encode(), "application/json")

    def _invited(self) -> bool:
        """Whether the request has the cookie of somebody who had the token."""
        try:
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get(self.server.cookie)
        except CookieError:
            return False
        return cookie is not None and _same(cookie.value, self.server.session)

    def _reply(
        self, status: HTTPStatus, body: bytes = b"", kind: str = "text/plain", headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response_only(status)
        for name, value in {**_HEADERS, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(ConnectionError):
            for start in range(0, len(body), _PIECE):  # the timeout is of one write, and a phone may be slow
                if self.server.is_closing and len(body) > _PIECE:
                    return
                self.wfile.write(body[start : start + _PIECE])

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: addresses of participants are not recorded."""


def _path_and_token(target: str) -> tuple[str, str]:
    """The path and the token of what is asked for; "" for both if it is no address."""
    try:
        url = urlsplit(target)
        return url.path, parse_qs(url.query).get("token", [""])[0]
    except ValueError:
        return "", ""


def _same(one: str, other: str) -> bool:
    """Whether two secrets are the same, in a time that does not say where they differ."""
    return hmac.compare_digest(one.encode(errors="surrogateescape"), other.encode())
