"""What a long task reports while it runs, and to whom."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int, int, str], None]  # (steps done, steps in all, a short remark); what it raises ends the task


class Reporter(Protocol):
    """Receives what a task reports. `pmagic.cli.console.Console` is one."""

    @property
    def talks(self) -> bool:
        """Whether `say` and `progress` reach anybody; an estimate that costs time is skipped where they do not."""
        ...

    def say(self, text: str) -> None:
        """A line about what is being done."""
        ...

    def warn(self, text: str) -> None:
        """A line about a result that is worse than it looks."""
        ...

    def progress(self, what: str) -> AbstractContextManager[Advance]:
        """Gives a function to be called after each step."""
        ...


class PythonWarnings:
    """The reporter of a notebook or script: warnings become Python warnings; a bar is shown on request."""

    def __init__(self, *, progress: bool = False) -> None:
        self.talks = progress

    def say(self, text: str) -> None:
        """Nothing: a function's result says it."""

    def warn(self, text: str) -> None:
        import warnings

        warnings.warn(text, stacklevel=2)

    @contextmanager
    def progress(self, what: str) -> Iterator[Advance]:
        """A tqdm bar, as a notebook or terminal can show it."""
        if not self.talks:
            yield lambda done, total, remark: None
            return
        from tqdm.auto import tqdm

        with tqdm(desc=what) as bar:

            def advance(done: int, total: int, remark: str) -> None:
                bar.total = total
                bar.set_postfix_str(remark, refresh=False)
                bar.update(done - bar.n)

            yield advance


def duration(seconds: float) -> str:
    """`48 s`, `3 min 20 s`, `1 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
