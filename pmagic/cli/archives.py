"""`pmagic export` and `pmagic import`: a persona as one file, and back."""

from pathlib import Path
from typing import Annotated

import typer

from pmagic import atomic_io, settings
from pmagic.cli import names
from pmagic.cli.console import Console
from pmagic.cli.options import AsJson, Quiet
from pmagic.errors import UsageError
from pmagic.library import archive
from pmagic.library.store import Library


def export_persona(
    name: Annotated[str, typer.Argument(help="alice (the newest version), or alice@1", autocompletion=names.personas)],
    out: Annotated[
        Path | None, typer.Argument(help=f"File to write (default: NAME{archive.SUFFIX}). Existing files stay.")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a persona to one file, for another machine.

    Anyone who has the file can draw the person: keep it as private as the photo.

    \b
    pmagic export alice
    pmagic export alice@1 ~/backup/alice.pmagic
    """
    console = Console(quiet=quiet, as_json=as_json)
    address, data = Library(settings.library_dir()).export(name)
    target = out or Path(f"{address.name}{archive.SUFFIX}")
    if target.is_dir():
        target = target / f"{address.name}{archive.SUFFIX}"
    with atomic_io.storing(f"the archive {target}"):
        written = atomic_io.publish_file(data, target)
    console.say("anyone who has this file can draw the person: keep it as private as the photo")
    console.result([str(written)], {"persona": str(address), "file": str(written), "bytes": len(data)})


def import_persona(
    file: Annotated[Path, typer.Argument(help=f"A file written by `pmagic export` (*{archive.SUFFIX}).")],
    name: Annotated[
        str | None, typer.Option("--as", help="Name of the persona here (default: the file's name).")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Import a persona from a file. If it is already here under that name, no second version is made.

    \b
    pmagic import alice.pmagic
    pmagic import alice.pmagic --as alice-from-bob
    """
    new_name = file.name.removesuffix(archive.SUFFIX) if name is None else name
    library = Library(settings.library_dir())
    before = library.addresses()
    try:
        address = library.import_archive(file, new_name)
    except UsageError as problem:
        if name is None and "cannot be a persona's name" in problem.what:
            raise UsageError(problem.what, "say what to call it with --as NAME") from problem
        raise
    console = Console(quiet=quiet, as_json=as_json)
    exists = address in before
    if exists:
        console.warn(f"this persona is already here as {address}")
    console.result([str(address)], {"persona": str(address), "already_here": exists, "warnings": console.warnings})
