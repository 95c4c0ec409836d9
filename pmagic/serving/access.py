"""The bearer token of the HTTP server: made once, kept in a private file, compared in constant time."""

import hmac
import os
import re
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from pmagic import atomic_io, settings
from pmagic.errors import UsageError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_TOKEN = re.compile(r"pmagic-[A-Za-z0-9_-]{43}")


def token_file() -> Path:
    return settings.state_dir() / "serve-token"


def load_token(path: Path) -> tuple[str, bool]:
    """The token in this file, and whether it was made now, because there was no file.

    Raises UsageError for a file that others can read or that holds no token, StorageFailed.
    """
    with atomic_io.storing("the server's token"):
        atomic_io.make_folder(path.parent)
        token = f"pmagic-{secrets.token_urlsafe(32)}"
        try:
            atomic_io.write_file(path, token.encode())
            return token, True
        except FileExistsError:
            return _read(path), False


def _read(path: Path) -> str:
    advice = f"remove {path}; the next `pmagic serve` makes a new token"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(f"the token file {path} cannot be read: {error.strerror}", advice) from error
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
            raise UsageError(f"others than you can read or change the token file {path}", advice)
        text = file.read(200).decode("ascii", "replace").strip()
    if not _TOKEN.fullmatch(text):
        raise UsageError(f"the token file {path} holds no token", advice)
    return text


class TokenRequired:
    """Lets requests with the token through; all others get 401, whatever they ask for, and their body is not read."""

    def __init__(self, app: "ASGIApp", token: str) -> None:
        self._app, self._expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "http":
            given = [value for name, value in scope["headers"] if name == b"authorization"]
            if len(given) != 1 or not hmac.compare_digest(given[0], self._expected):
                from pmagic.serving import replies

                await replies.unauthorized(scope, receive, send)
                return
        await self._app(scope, receive, send)
