"""Recognises network failures by their exception classes, so that a full disk or a defect is not mistaken for one.

It does not know what is being fetched, and uses no network itself.
"""

import errno
import http.client
import os
import socket
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

Families = tuple[type[BaseException], ...]

# Raised by the standard library, and so by every client that is built on it.
_STANDARD: Families = (
    ConnectionError,
    TimeoutError,
    socket.gaierror,
    socket.herror,
    ssl.SSLError,
    urllib.error.URLError,
    http.client.HTTPException,
)
ERRORS: Families = (OSError, *_STANDARD)  # everything that such a client can raise, disk errors included
_NUMBERS = frozenset(
    getattr(errno, name)
    for name in ("ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH", "EADDRNOTAVAIL", "ENOTCONN", "EPROTO")
    if hasattr(errno, name)
)
# The base classes of clients with exceptions of their own. Only a module that is imported can have raised one.
_CLIENTS = (("requests.exceptions", "RequestException"), ("urllib3.exceptions", "HTTPError"))


def failure(error: BaseException, families: Families = ()) -> str:
    """A network failure in a few words, such as "Connection refused"; "" for any other error.

    families: exception classes of the client, besides the standard library's. The error and its causes are read from
    the outermost to the innermost, and the innermost network failure is described.
    """
    known = (*_STANDARD, *families, *_loaded())
    described = ""
    for each in _chain(error):
        if isinstance(each, known) or (isinstance(each, OSError) and each.errno in _NUMBERS) or _no_host(each):
            described = _words(each)
        elif not described and isinstance(each, OSError) and each.errno is not None:
            return ""  # an error of the disk or of a file
    return described


def local_failure(error: BaseException, families: Families = ()) -> OSError | None:
    """The error of the disk or of a file in this error's causes; None without one, or where the network failed."""
    if failure(error, families):
        return None
    candidates = (each for each in _chain(error) if isinstance(each, OSError) and each.errno is not None)
    return next(candidates, None)


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids every download; its values are read as the hub's own client reads them."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def variables(*more: str) -> list[str]:
    """Names of the environment variables that redirect requests: proxies and another hub."""
    proxies = [f"{scheme}_proxy" for scheme in urllib.request.getproxies_environment() if scheme != "no"]
    names = [name for name in (*proxies, *map(str.upper, proxies), *more) if os.environ.get(name)]
    return sorted(set(names))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # the causes can form a circle
        yield error
        seen.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _loaded() -> Families:
    return tuple(getattr(sys.modules[module], name) for module, name in _CLIENTS if module in sys.modules)


def _no_host(error: BaseException) -> bool:
    """Whether a host name cannot be looked up because a part of it is empty or longer than 63 characters."""
    return isinstance(error, UnicodeError) and "idna" in str(error)


def _words(error: BaseException) -> str:
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
    return " ".join(text.split())[:200]
