"""Stopping: the first Ctrl-C (or termination) ends a long job at its next step, the second one at once."""

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
_HEARD = b"stopping at the end of this step; once more to leave at once\n"


class Stopped(PmagicError):
    """The person asked for it; `kept` and `next_step` say what there is to go on with."""

    exit_code = STOPPED_BY_PERSON


class LeftAtOnce(KeyboardInterrupt):
    """The second request: in the middle of a step, so that nothing may be saved any more."""


def stop_anywhere() -> None:
    """From here on termination and hang-up end the program as Ctrl-C does, with a message and a code, not silently."""

    def interrupt(number: int, frame: types.FrameType | None) -> None:
        raise KeyboardInterrupt

    for each in SIGNALS:
        if signal.getsignal(each) == signal.SIG_DFL:  # `nohup` has the program ignore hang-ups
            signal.signal(each, interrupt)


@contextmanager
def stop_at_step() -> Iterator[Callable[[], None]]:
    """Gives a function to call after each step: it raises KeyboardInterrupt once a stop was asked for."""
    asked: list[int] = []

    def remember(number: int, frame: types.FrameType | None) -> None:
        asked.append(number)
        if len(asked) > 1:
            raise LeftAtOnce
        if os.isatty(2):
            os.write(2, _HEARD)  # print could be in the middle of another line's buffer

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    heard = [each for each in SIGNALS if signal.getsignal(each) != signal.SIG_IGN]
    before = {each: signal.signal(each, remember) for each in heard}
    try:
        yield check
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@dataclass(frozen=True)
class StopAtStep:
    """A console whose progress ends a task with KeyboardInterrupt at the end of the step in which a stop was asked."""

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
