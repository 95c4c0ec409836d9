"""What a long task reports while it runs, and who receives it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[
    [int, int, str], None
]  # (steps done, steps in all, a short remark); an exception from it ends the task


class Reporter(Protocol):
    """Receives what a task reports. `pmagic.cli.console.Console` is one."""

    @property
    def talks(self) -> bool:
        """Whether anybody sees `say` and `progress`. If not, a task skips estimates that cost time."""
        ...

    def say(self, text: str) -> None:
        """Reports what the task is doing."""
        ...

    def warn(self, text: str) -> None:
        """Reports that a result is worse than it looks."""
        ...

    def progress(self, what: str) -> AbstractContextManager[Advance]:
        """Gives a function to be called after each step."""
        ...


class PythonWarnings:
    """The reporter of a notebook or script: warnings become Python warnings; a bar is shown on request."""

    def __init__(self, *, progress: bool = False) -> None:
        self.talks = progress

    def say(self, text: str) -> None:
        """Shows nothing: the result of the function is enough."""

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
