"""`pmagic list`: every version in the library, damaged ones too."""

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
    """List the personas in the library.

    \b
    pmagic list
    pmagic list -q    (only the names)
    """
    console = Console(quiet=quiet, as_json=as_json)
    library = Library(settings.library_dir())
    if quiet and not as_json:
        console.result([str(address) for address in library.addresses()], None)
        exit_if_unreadable(console, library)
        return
    summaries = library.summaries()
    if not summaries:
        console.say("there is no persona yet: pmagic learn PHOTO --name NAME")
        console.result([], [])
        exit_if_unreadable(console, library)
        return
    versions = [(address, about, _files(folder_of(library.root, address))) for address, about in summaries]
    heads = ("PERSONA", "BASE", "WORD", "LEARNED WITH", "ITERATIONS", "SIZE", "CREATED")
    console.result(table([_row(*each) for each in versions], heads), [_document(*each) for each in versions])
    exit_if_unreadable(console, library)


def exit_if_unreadable(console: Console, library: Library) -> None:
    """Warns about each folder that could not be listed, and exits with the code of the first."""
    problems = library.unreadable()
    for problem in problems:
        console.warn(f"{problem.what}; {problem.next_step}")
    if problems:
        raise typer.Exit(problems[0].exit_code)


def _files(folder: str | os.PathLike[str]) -> tuple[int, datetime | None]:
    """Bytes of a version's files, and when the newest was written; (0, None) if they cannot be read or are gone."""
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
    # A recipe says most about personamagic; for another method the name of the method says more.
    learned_with = about.recipe if about.method == "personamagic" and about.recipe else about.method
    iterations = "-" if about.iterations is None else str(about.iterations)
    return str(address), about.base, about.word, learned_with, iterations, size, created


def _document(address: Address, about: Summary | PmagicError, files: tuple[int, datetime | None]) -> dict[str, object]:
    identity = {"persona": str(address), "name": address.name, "version": address.version}
    facts = {"bytes": files[0], "created": files[1] and files[1].isoformat(timespec="seconds")}
    if isinstance(about, PmagicError):
        return {**identity, **facts, **about.as_dict()}
    return {**identity, **facts, **vars(about), "bounds": [about.bounds.low, about.bounds.high]}
