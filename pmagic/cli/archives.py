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
        Path | None, typer.Argument(help=f"File to write, NAME{archive.SUFFIX} without one; none is overwritten.")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a persona to one file, for another machine.

    Whoever has the file can draw the person: it is as private as the photo.

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
    console.say("whoever has this file can draw the person: keep it as private as the photo")
    console.result([str(written)], {"persona": str(address), "file": str(written), "bytes": len(data)})


def import_persona(
    file: Annotated[Path, typer.Argument(help=f"A file that `pmagic export` has written (*{archive.SUFFIX}).")],
    name: Annotated[str | None, typer.Option("--as", help="Its name here; without it, the file's own.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Take a persona in from a file. One that is here under that name already makes no second version.

    \b
    pmagic import alice.pmagic
    pmagic import alice.pmagic --as alice-from-bob
    """
    chosen = file.name.removesuffix(archive.SUFFIX) if name is None else name
    library = Library(settings.library_dir())
    before = library.addresses()
    try:
        address = library.import_archive(file, chosen)
    except UsageError as problem:
        if name is None and "cannot be a persona's name" in problem.what:
            raise UsageError(problem.what, "say what to call it with --as NAME") from problem
        raise
    console = Console(quiet=quiet, as_json=as_json)
    already = address in before
    if already:
        console.warn(f"this persona is here already, as {address}")
    console.result([str(address)], {"persona": str(address), "already_here": already, "warnings": console.warnings})
