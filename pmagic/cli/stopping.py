"""Stopping: the first Ctrl-C (or termination) ends a long job at its next step, the second one at once."""

import signal
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pmagic.errors import STOPPED_BY_PERSON, Problem

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stopped(Problem):
    """The person asked for it; `kept` and `next_step` say what there is to go on with."""

    exit_code = STOPPED_BY_PERSON


@contextmanager
def stop_at_step() -> Iterator[Callable[[], None]]:
    """Gives a function to call after each step: it raises KeyboardInterrupt once a stop was asked for."""
    asked: list[int] = []

    def remember(number: int, frame: types.FrameType | None) -> None:
        asked.append(number)
        if len(asked) > 1:
            raise KeyboardInterrupt

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    before = {each: signal.signal(each, remember) for each in SIGNALS}
    try:
        yield check
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
