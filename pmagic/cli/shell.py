"""`pmagic shell`: the program's own verbs at a prompt, in one process, with the base open between them."""

import contextlib
import glob
import io
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from pmagic import atomic_io, settings
from pmagic.cli import console
from pmagic.errors import STOPPED_BY_PERSON, OutOfMemory, PmagicError, UsageError
from pmagic.tasks import opened_bases

PROMPT = "pmagic> "
WORDS_OF_ITS_OWN = ("exit", "help", "quit")
_MAX_HISTORY = 1000  # lines
# After these a step may have been left in the middle, or memory may be needed: the next verb opens its base anew.
_CLOSES_BASES = (PmagicError.exit_code, OutOfMemory.exit_code, STOPPED_BY_PERSON)
_ENDING = {getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)}


def shell(context: typer.Context) -> None:
    """Type commands without the word pmagic; the base stays open between them.

    Tab completes and the arrow keys recall. Ctrl-C stops the command that runs; exit or Ctrl-D ends the shell.
    The exit code is that of the last command.

    \b
    pmagic shell
    pmagic shell < commands.txt
    """
    if opened_bases.are_kept():
        raise UsageError("this is a shell already", "type the command itself, such as list")
    program = Program(context.find_root().command)
    with opened_bases.keep_open(), _noted_signals() as ends, _line_editing(program):
        if sys.stdin.isatty():
            print("the base stays open between commands; help lists them, exit or Ctrl-D ends", file=sys.stderr)
        code = 0
        while not ends():
            try:
                line = input(PROMPT if sys.stdin.isatty() else "")
            except EOFError:
                break
            except KeyboardInterrupt:
                if ends():
                    break
                print(file=sys.stderr)  # Ctrl-C drops the line that was begun
                continue
            words = _words(line)
            if words is None:
                code = UsageError.exit_code
            elif words[:1] in (["exit"], ["quit"]):
                break
            elif words:
                code = program.run(words)
        code = STOPPED_BY_PERSON if ends() else code
    raise typer.Exit(code)


class Program:
    """The commands of pmagic, called in this process."""

    def __init__(self, command: Any) -> None:
        """command: the group of all commands, as typer has made it."""
        self._command = command

    def run(self, words: Sequence[str]) -> int:
        """Runs one command line. Returns its exit code; errors are printed as they are outside of a shell."""
        words = list(words[1:] if words[0] == "pmagic" else words)
        words = ["--help"] if words == ["help"] else words
        try:
            self._command.main(args=words, prog_name="pmagic")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except KeyboardInterrupt:  # between two commands
            code = STOPPED_BY_PERSON
        else:
            code = 0
        if code in _CLOSES_BASES:
            opened_bases.close_all()
        return code

    def complete(self, line: str) -> list[str]:
        """What the last word of the line can become: commands, options, names; else files. As in other shells."""
        variables = {
            "_PMAGIC_COMPLETE": "complete_bash",
            "COMP_WORDS": f"pmagic {line}",
            "COMP_CWORD": str(len(line.split()) + (not line or line[-1].isspace())),
        }
        printed = io.StringIO()
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        try:
            with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit, Exception):
                self._command.main(args=[], prog_name="pmagic", complete_var="_PMAGIC_COMPLETE")
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        candidates = printed.getvalue().split("\n")
        word = line.rpartition(" ")[2]
        if word == line:
            candidates += WORDS_OF_ITS_OWN
        found = [each for each in candidates if each and each.startswith(word)]
        return sorted(set(found)) or sorted(glob.glob(f"{glob.escape(word)}*"))


def _words(line: str) -> list[str] | None:
    """The words of a line as a shell splits them; None, and a message, for a quotation without its end."""
    try:
        return shlex.split(line, comments=True)
    except ValueError as error:
        problem = UsageError(f"the line cannot be read: {str(error).lower()}", "close the quotation and try again")
        console.show_problem(problem, as_json=False)
        return None


@contextmanager
def _noted_signals() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether the process was asked to end, not only to stop a command with Ctrl-C.

    Commands handle all signals alike while they run; the numbers of the signals still arrive in this pipe.
    """
    reader, writer = os.pipe()
    for each in (reader, writer):
        os.set_blocking(each, False)
    numbers: set[int] = set()

    def ends() -> bool:
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)  # again: an event loop takes it for itself
        with contextlib.suppress(BlockingIOError):
            numbers.update(os.read(reader, 4096))
        return bool(numbers & _ENDING)

    try:
        yield ends
    finally:
        signal.set_wakeup_fd(-1)
        os.close(reader)
        os.close(writer)


@contextmanager
def _line_editing(program: Program) -> Iterator[None]:
    """Completion and history at the prompt, by Python's readline; nothing where it is missing or input is a file."""
    try:
        import readline
    except ModuleNotFoundError:
        readline = None
    if readline is None or not sys.stdin.isatty():
        yield
        return
    found: list[str] = []

    def complete(text: str, number: int) -> str | None:
        if number == 0:
            found[:] = program.complete(readline.get_line_buffer()[: readline.get_endidx()])
        return found[number] if number < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" \t")
    readline.parse_and_bind("tab: complete")
    file = settings.state_dir() / "shell-history"
    for line in _read_history(file):
        readline.add_history(line)
    try:
        yield
    finally:
        count = readline.get_current_history_length()
        first = max(1, count - _MAX_HISTORY + 1)
        lines = [readline.get_history_item(number) for number in range(first, count + 1)]
        with contextlib.suppress(OSError):  # a history that cannot be kept is no reason to fail
            atomic_io.make_folder(file.parent)
            atomic_io.replace_file(file, "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))


def _read_history(file: Path) -> list[str]:
    try:
        return file.read_text(errors="surrogateescape").splitlines()[-_MAX_HISTORY:]
    except OSError:
        return []
