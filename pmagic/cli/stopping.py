"""Stopping: the first Ctrl-C (or termination) ends a long job after the current step, the second one at once."""

import os
import signal
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pmagic.cli.console import Console
from pmagic.errors import STOPPED_BY_PERSON, PmagicError
from pmagic.tasks.reporting import Advance

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_STOP_NOTICE = b"stopping at the end of this step; a second Ctrl-C stops at once\n"


class Stopped(PmagicError):
    """The user stopped the command. `kept` and `next_step` say how to continue."""

    exit_code = STOPPED_BY_PERSON


class LeftAtOnce(KeyboardInterrupt):
    """The second request to stop. It comes in the middle of a step, so nothing may be saved any more."""


def stop_anywhere() -> None:
    """Makes termination and hang-up end the program as Ctrl-C does: with a message and an exit code."""

    def interrupt(number: int, frame: types.FrameType | None) -> None:
        raise KeyboardInterrupt

    for each in SIGNALS:
        if signal.getsignal(each) == signal.SIG_DFL:  # `nohup` makes the program ignore hang-ups
            signal.signal(each, interrupt)


@contextmanager
def stop_at_step() -> Iterator[Callable[[], None]]:
    """Gives a function to call after each step. It raises KeyboardInterrupt after a request to stop."""
    requests: list[int] = []

    def remember(number: int, frame: types.FrameType | None) -> None:
        requests.append(number)
        if len(requests) > 1:
            raise LeftAtOnce
        if os.isatty(2):
            os.write(2, _STOP_NOTICE)  # print could be in the middle of another line

    def check() -> None:
        if requests:
            raise KeyboardInterrupt

    signals = [each for each in SIGNALS if signal.getsignal(each) != signal.SIG_IGN]
    handlers = {each: signal.signal(each, remember) for each in signals}
    try:
        yield check
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)


@dataclass(frozen=True)
class StopAtStep:
    """A console whose progress raises KeyboardInterrupt at the end of the step in which the user stopped it."""

    console: Console

    @property
    def talks(self) -> bool:
        return self.console.talks

    def say(self, text: str) -> None:
        self.console.say(text)

    def warn(self, text: str) -> None:
        self.console.warn(text)

    @contextmanager
    def progress(self, what: str) -> Iterator[Advance]:
        with stop_at_step() as check, self.console.progress(what) as advance:

            def advance_or_stop(done: int, total: int, remark: str) -> None:
                advance(done, total, remark)
                check()

            yield advance_or_stop
