"""`pmagic list`: every kept version, the damaged ones too."""

import os
from datetime import datetime

import typer

from pmagic import settings
from pmagic.cli.console import Console, table
from pmagic.cli.options import AsJson, Quiet
from pmagic.errors import PmagicError
from pmagic.library.bundle import Summary
from pmagic.library.naming import Address, folder_of
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
    found = library.summaries()
    if not found:
        console.say("no persona is kept yet: pmagic learn PHOTO --name NAME")
        console.result([], [])
        end_unreadable(console, library)
        return
    listed = [(address, about, _files(folder_of(library.root, address))) for address, about in found]
    heads = ("PERSONA", "BASE", "WORD", "RECIPE", "ITERATIONS", "SIZE", "CREATED")
    console.result(table([_row(*each) for each in listed], heads), [_document(*each) for each in listed])
    end_unreadable(console, library)


def end_unreadable(console: Console, library: Library) -> None:
    """Warns of each folder that could not be listed, and ends with the code of the first."""
    problems = library.unreadable()
    for problem in problems:
        console.warn(f"{problem.what}; {problem.next_step}")
    if problems:
        raise typer.Exit(problems[0].exit_code)


def _files(folder: str | os.PathLike[str]) -> tuple[int, datetime | None]:
    """Bytes of a version's files, and when the newest was written; None where they cannot be read, or not any more."""
    try:
        with os.scandir(folder) as entries:
            files = [each.stat() for each in entries]
    except OSError:
        files = []
    newest = max((each.st_mtime for each in files), default=None)
    created = None if newest is None else datetime.fromtimestamp(newest).astimezone()
    return sum(each.st_size for each in files), created


def _row(address: Address, about: Summary | PmagicError, files: tuple[int, datetime | None]) -> tuple[str, ...]:
    size, created = f"{files[0] / 1e6:.1f} MB", "-" if files[1] is None else f"{files[1]:%Y-%m-%d %H:%M}"
    if isinstance(about, PmagicError):
        return str(address), "-", "-", "-", "-", size, f"cannot be used: {about}"
    # Only the embedding methods know recipes; of another method its name says more.
    recipe = about.recipe if about.method == "personamagic" and about.recipe else about.method
    iterations = "-" if about.iterations is None else str(about.iterations)
    return str(address), about.base, about.word, recipe, iterations, size, created


def _document(address: Address, about: Summary | PmagicError, files: tuple[int, datetime | None]) -> dict[str, object]:
    named = {"persona": str(address), "name": address.name, "version": address.version}
    kept = {"bytes": files[0], "created": files[1] and files[1].isoformat(timespec="seconds")}
    if isinstance(about, PmagicError):
        return {**named, **kept, **about.as_dict()}
    return {**named, **kept, **vars(about), "bounds": [about.bounds.low, about.bounds.high]}
