"""The only place that prints: results on stdout, talk on stderr, every text from outside made harmless first."""

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

TIMED_STEPS = 5  # after so many the time left can be told
PROGRESS = "PMAGIC_PROGRESS"  # "lines": without a terminal, a line of progress now and then
LINE_SECONDS = 10.0


@dataclass(frozen=True)
class Console:
    """How one command talks. quiet: no talk at all. as_json: stdout carries one JSON document and nothing else."""

    quiet: bool = False
    as_json: bool = False
    warnings: list[str] = field(default_factory=list)  # everything warned of, for the JSON document

    @property
    def talks(self) -> bool:
        """Talk and progress are for a person who looks on; a file or a pipe gets only results and warnings."""
        return not self.quiet and sys.stderr.isatty()

    def say(self, text: str) -> None:
        if self.talks:
            print(on_one_line(text), file=sys.stderr, flush=True)

    def tell(self, text: str) -> None:
        """As `say`, also where stderr is no terminal."""
        if not self.quiet:
            print(clean(text), file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Said in every case: silence would make the result look better than it is."""
        self.warnings.append(text)
        print(f"warning: {on_one_line(text)}", file=sys.stderr, flush=True)

    def result(self, lines: Sequence[str], document: object) -> None:
        """What the command was asked for, as lines or as the JSON document."""
        text = "\n".join(on_one_line(line) for line in lines)
        if self.as_json:
            text = _as_json(document)
        try:
            print(text, end="\n" if text else "", flush=True)
        except OSError as error:
            raise unwritable(error) from error

    @contextmanager
    def progress(self, what: str) -> Iterator[Advance]:
        """A bar on stderr, and once its first steps are timed a line that says how long it takes.

        Without a terminal nothing, or a line every ten seconds where the environment has PMAGIC_PROGRESS=lines.
        """
        if not self.talks:
            lines = not self.quiet and os.environ.get(PROGRESS) == "lines"
            yield self._advance_by_lines(what) if lines else lambda done, total, remark: None
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
            timed: list[tuple[float, int]] = []

            def advance(done: int, total: int, remark: str) -> None:
                if len(timed) < TIMED_STEPS:
                    timed.append((time.monotonic(), done))
                    if len(timed) == TIMED_STEPS and done > timed[1][1]:
                        start, first = timed[1]  # the first step is slower than the others
                        self.say(f"about {duration((timed[-1][0] - start) / (done - first) * (total - done))} to go")
                bar.update(task, completed=done, total=total, remark=clean(remark))

            yield advance

    def _advance_by_lines(self, what: str) -> Advance:
        start = last = time.monotonic()

        def advance(done: int, total: int, remark: str) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= LINE_SECONDS and done:
                last = now
                left = (now - start) / done * (total - done)
                self.tell(f"{what}: {done} of {total}, about {duration(left)} to go")

        return advance


def show_problem(problem: PmagicError, *, as_json: bool) -> None:
    """One message: what happened, what was kept, what to type next. As JSON it takes the result's place on stdout."""
    if as_json:
        print(_as_json(problem.as_dict()), flush=True)
        return
    asked_for = problem.exit_code == STOPPED_BY_PERSON
    lines = [problem.what if asked_for else f"error: {problem.what}"]
    if problem.kept:
        lines.append(f"  kept: {problem.kept}")
    if problem.next_step:
        lines.append(f"  next: {problem.next_step}")
    print("\n".join(on_one_line(line) for line in lines), file=sys.stderr, flush=True)


def unwritable(error: OSError) -> StorageFailed:
    """A stdout that is closed or full; what is still in its buffer is given up, or leaving would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return StorageFailed(
        f"the output cannot be written: {error.strerror}", "see `pmagic list`", kept="what the command has done"
    )


def clean(text: str) -> str:
    """The text without anything that a terminal obeys: control characters and lone surrogates are spelled out.

    Tabs and line ends stay.
    """
    if text.isprintable():  # which none of those is, and which is soon said of a long list
        return text
    return "".join(each if each in "\n\t" or _harmless(each) else f"\\x{ord(each):02x}" for each in text)


def on_one_line(text: str) -> str:
    """As `clean`, with line ends spelled out too: a value from outside must not look like the line after it."""
    return clean(text).replace("\n", "\\n")


def table(rows: Sequence[Sequence[str]], heads: Sequence[str]) -> list[str]:
    """Left-aligned columns, two blanks apart."""
    cleaned = [[clean(cell).replace("\n", " ").replace("\t", " ") for cell in row] for row in (heads, *rows)]
    widths = [max(len(row[column]) for row in cleaned) for column in range(len(heads))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cleaned]


def _as_json(document: object) -> str:
    """In ASCII: JSON in any locale, and without a character that a terminal obeys."""
    return json.dumps(document, indent=2, allow_nan=False, default=_plain)


def _harmless(character: str) -> bool:
    # Cc control, Cs lone surrogate, Cf invisible format characters such as those that turn the direction of writing
    return unicodedata.category(character) not in ("Cc", "Cs", "Cf", "Zl", "Zp")


def _plain(value: object) -> object:
    """Paths and mappings as JSON has them."""
    return dict(value) if isinstance(value, Mapping) else str(value)
