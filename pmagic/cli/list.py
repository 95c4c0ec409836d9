"""`pmagic list`: every kept version, the damaged ones too."""

from typing import Annotated

import typer

from pmagic import settings
from pmagic.cli.console import Console, table
from pmagic.library.store import Entry, Library


def list_personas(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List the personas that are kept."""
    console = Console(as_json=as_json)
    library = Library(settings.library_dir())
    entries = library.entries()
    if not entries:
        console.say("no persona is kept yet: pmagic learn PHOTO --name NAME")
        console.result([], [])
        return
    console.result(
        table([_row(entry) for entry in entries], ("PERSONA", "BASE", "WORD", "METHOD", "ITERATIONS")),
        [_document(entry) for entry in entries],
    )


def _row(entry: Entry) -> tuple[str, ...]:
    about = entry.manifest
    if about is None:
        return str(entry.address), "-", "-", "-", f"cannot be used: {entry.problem}"
    return str(entry.address), about.base, about.word, about.method, str(about.settings.get("iterations", "-"))


def _document(entry: Entry) -> dict[str, object]:
    about = entry.manifest
    address = {"persona": str(entry.address), "name": entry.address.name, "version": entry.address.version}
    if about is None:
        assert entry.problem is not None  # an entry has one or the other
        return {**address, **entry.problem.as_dict()}
    return {
        **address,
        "base": about.base,
        "word": about.word,
        "method": about.method,
        "bounds": [about.bounds.low, about.bounds.high],
        "recipe": about.settings.get("recipe"),
        "iterations": about.settings.get("iterations"),
        "seed": about.settings.get("seed"),
    }
