"""`pmagic list`: every kept version, the damaged ones too."""

import typer

from pmagic import settings
from pmagic.cli.console import Console, table
from pmagic.cli.options import AsJson, Quiet
from pmagic.errors import Problem
from pmagic.library.bundle import Glance
from pmagic.library.naming import Address
from pmagic.library.store import Library


def list_personas(
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """List the personas that are kept.

    \b
    pmagic list
    pmagic list -q    (only the names)
    """
    console = Console(quiet=quiet, as_json=as_json)
    library = Library(settings.library_dir())
    if quiet and not as_json:
        console.result([str(address) for address in library.addresses()], None)
        end_unreadable(console, library)
        return
    found = library.glances()
    if not found:
        console.say("no persona is kept yet: pmagic learn PHOTO --name NAME")
        console.result([], [])
        end_unreadable(console, library)
        return
    lines = table([_row(*each) for each in found], ("PERSONA", "BASE", "WORD", "METHOD", "ITERATIONS"))
    console.result(lines, [_document(*each) for each in found])
    end_unreadable(console, library)


def end_unreadable(console: Console, library: Library) -> None:
    """Warns of each folder that could not be listed, and ends with the code of the first."""
    problems = library.unreadable()
    for problem in problems:
        console.warn(f"{problem.what}; {problem.next_step}")
    if problems:
        raise typer.Exit(problems[0].exit_code)


def _row(address: Address, about: Glance | Problem) -> tuple[str, ...]:
    if isinstance(about, Problem):
        return str(address), "-", "-", "-", f"cannot be used: {about}"
    iterations = "-" if about.iterations is None else str(about.iterations)
    return str(address), about.base, about.word, about.method, iterations


def _document(address: Address, about: Glance | Problem) -> dict[str, object]:
    named = {"persona": str(address), "name": address.name, "version": address.version}
    if isinstance(about, Problem):
        return {**named, **about.as_dict()}
    return {**named, **vars(about), "bounds": [about.bounds.low, about.bounds.high]}
