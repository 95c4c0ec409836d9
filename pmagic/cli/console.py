"""Printing: results go to stdout, talk goes to stderr. Text from outside is made harmless first."""

import json
import os
import sys
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pmagic.errors import STOPPED_BY_PERSON, PmagicError, StorageFailed
from pmagic.tasks.reporting import Advance, duration

TIMED_STEPS = 5  # steps after which the time left is estimated
LINE_SECONDS = 10.0  # between two lines of progress where there is no terminal


@dataclass(frozen=True)
class Console:
    """How one command talks. quiet: no talk at all. as_json: stdout carries one JSON document and nothing else."""

    quiet: bool = False
    as_json: bool = False
    warnings: list[str] = field(default_factory=list)  # all warnings, for the JSON document

    @property
    def talks(self) -> bool:
        """Whether talk is shown: on a terminal only. A file or a pipe gets results, warnings and lines of progress."""
        return not self.quiet and sys.stderr.isatty()

    def say(self, text: str) -> None:
        if self.talks:
            print(on_one_line(text), file=sys.stderr, flush=True)

    def say_always(self, text: str) -> None:
        """Like `say`, but also where stderr is no terminal."""
        if not self.quiet:
            print(clean(text), file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Always printed: without the warning the result would look better than it is."""
        self.warnings.append(text)
        print(f"warning: {on_one_line(text)}", file=sys.stderr, flush=True)

    def result(self, lines: Sequence[str], document: object) -> None:
        """Prints the result of the command, as lines or as the JSON document."""
        text = "\n".join(on_one_line(line) for line in lines)
        if self.as_json:
            text = _as_json(document)
        try:
            print(text, end="\n" if text else "", flush=True)
        except OSError as error:
            raise abandon_stdout(error) from error

    @contextmanager
    def progress(self, what: str) -> Iterator[Advance]:
        """Shows a bar on stderr, and after the first steps a line that says how long the rest will take.

        Without a terminal it prints a line every ten seconds.
        """
        if not self.talks:
            yield self._advance_by_lines(what)
            return
        from rich.console import Console as Terminal
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[remark]}", markup=False),
        )
        with Progress(*columns, console=Terminal(stderr=True), transient=True) as bar:
            task = bar.add_task(clean(what), total=None, remark="")
            times: list[tuple[float, int]] = []

            def advance(done: int, total: int, remark: str) -> None:
                if len(times) < TIMED_STEPS:
                    times.append((time.monotonic(), done))
                    if len(times) == TIMED_STEPS and done > times[1][1]:
                        start, first = times[1]  # the first step is slower than the others
                        self.say(f"about {duration((times[-1][0] - start) / (done - first) * (total - done))} to go")
                bar.update(task, completed=done, total=total, remark=clean(remark))

            yield advance

    def _advance_by_lines(self, what: str) -> Advance:
        start = last = time.monotonic()

        def advance(done: int, total: int, remark: str) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= LINE_SECONDS and done and not self.quiet:
                last = now
                left = (now - start) / done * (total - done)
                self.say_always(f"{what}: {done} of {total}, about {duration(left)} to go")

        return advance


def show_problem(problem: PmagicError, *, as_json: bool) -> None:
    """One message: what happened, what was kept, what to type next. As JSON it goes to stdout."""
    if as_json:
        print(_as_json(problem.as_dict()), flush=True)
        return
    is_stop = problem.exit_code == STOPPED_BY_PERSON
    lines = [problem.what if is_stop else f"error: {problem.what}"]
    if problem.kept:
        lines.append(f"  kept: {problem.kept}")
    if problem.next_step:
        lines.append(f"  next: {problem.next_step}")
    print("\n".join(on_one_line(line) for line in lines), file=sys.stderr, flush=True)


def abandon_stdout(error: OSError) -> StorageFailed:
    """The problem of a closed or full stdout. Drops what is still in its buffer, or the exit would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return StorageFailed(
        f"the output cannot be written: {error.strerror}", "see `pmagic list`", kept="what the command has done"
    )


def clean(text: str) -> str:
    """The text with control characters and lone surrogates spelled out, so that a terminal obeys nothing in it.

    Tabs and line ends stay.
    """
    if text.isprintable():  # a quick check: none of those characters is printable
        return text
    return "".join(each if each in "\n\t" or _is_harmless(each) else f"\\x{ord(each):02x}" for each in text)


def on_one_line(text: str) -> str:
    """Like `clean`, with line ends spelled out too: an outside value must not look like another line."""
    return clean(text).replace("\n", "\\n")


def table(rows: Sequence[Sequence[str]], heads: Sequence[str]) -> list[str]:
    """Lines with left-aligned columns, two spaces apart."""
    cells = [[clean(cell).replace("\n", " ").replace("\t", " ") for cell in row] for row in (heads, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _as_json(document: object) -> str:
    """JSON in ASCII, which prints in any locale and holds no character that a terminal obeys."""
    return json.dumps(document, indent=2, allow_nan=False, default=_convert)


def _is_harmless(character: str) -> bool:
    # Cc: control. Cs: lone surrogates. Cf: invisible, such as characters that change the direction of writing.
    return unicodedata.category(character) not in ("Cc", "Cs", "Cf", "Zl", "Zp")


def _convert(value: object) -> object:
    """Converts paths and mappings for JSON."""
    return dict(value) if isinstance(value, Mapping) else str(value)
