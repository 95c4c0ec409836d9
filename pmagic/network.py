"""Failures of the network, told apart from a full disk and from defects by families of errors, not by a client's name.

Knows nothing of what was to be fetched; asks no network itself.
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

# What the standard library raises, and with it every client that is built on it.
_STANDARD: Families = (
    ConnectionError,
    TimeoutError,
    socket.gaierror,
    socket.herror,
    ssl.SSLError,
    urllib.error.URLError,
    http.client.HTTPException,
)
ERRORS: Families = (OSError, *_STANDARD)  # all that such a client can raise: a disk's errors, too
_NUMBERS = frozenset(
    getattr(errno, name)
    for name in ("ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH", "EADDRNOTAVAIL", "ENOTCONN", "EPROTO")
    if hasattr(errno, name)
)
# The root of the errors of clients with families of their own; only what is imported already can have raised one.
_CLIENTS = (("requests.exceptions", "RequestException"), ("urllib3.exceptions", "HTTPError"))


def failure(error: BaseException, families: Families = ()) -> str:
    """What failed on the way to another machine, in a few words; "" where that is not what failed.

    families: of the client that was used, besides the standard library's. Looks at the error and at what it came from,
    outermost first, and describes the innermost: "Connection refused".
    """
    known = (*_STANDARD, *families, *_loaded())
    described = ""
    for each in _chain(error):
        if isinstance(each, known) or (isinstance(each, OSError) and each.errno in _NUMBERS) or _no_host(each):
            described = _words(each)
        elif not described and isinstance(each, OSError) and each.errno is not None:
            return ""  # a disk's or a file's
    return described


def local_failure(error: BaseException, families: Families = ()) -> OSError | None:
    """The disk's or a file's error that this is or came from, where the network is not what failed."""
    if failure(error, families):
        return None
    found = (each for each in _chain(error) if isinstance(each, OSError) and each.errno is not None)
    return next(found, None)


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids every download; its values are read as the hub's own client reads them."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def variables(*more: str) -> list[str]:
    """The names of the environment's variables that are set and send requests elsewhere: proxies.

    more: variables that one client reads besides.
    """
    proxies = [f"{scheme}_proxy" for scheme in urllib.request.getproxies_environment() if scheme != "no"]
    names = [name for name in (*proxies, *map(str.upper, proxies), *more) if os.environ.get(name)]
    return sorted(set(names))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # an error may come round to itself
        yield error
        seen.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _loaded() -> Families:
    return tuple(getattr(sys.modules[module], name) for module, name in _CLIENTS if module in sys.modules)


def _no_host(error: BaseException) -> bool:
    """A host name that cannot even be asked for: a part of it is empty or longer than 63 characters."""
    return isinstance(error, UnicodeError) and "idna" in str(error)


def _words(error: BaseException) -> str:
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
    return " ".join(text.split())[:200]
