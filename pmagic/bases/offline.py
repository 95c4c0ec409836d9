"""Keeps the model libraries off the network: they look nothing up, and open no socket when they are imported."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec


@contextmanager
def offline() -> Iterator[None]:
    """While inside, the hub's client refuses every request, as with HF_HUB_OFFLINE."""
    import_http_client()
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def import_http_client() -> None:
    """Import urllib3, which diffusers and insightface need, without the socket that it binds to ::1 on import.

    urllib3 tests with that socket whether the machine has IPv6. Here it uses Python's own answer; if an address cannot
    be reached, a connection tries the next one anyway.
    """
    if "urllib3" in sys.modules or find_spec("urllib3") is None:
        return
    import socket

    has_ipv6 = socket.has_ipv6
    socket.has_ipv6 = False
    try:
        from urllib3.util import connection
    finally:
        socket.has_ipv6 = has_ipv6
    connection.HAS_IPV6 = has_ipv6
