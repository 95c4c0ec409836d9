"""`pmagic rm`: one version, or a whole name with what is unfinished of it."""

import contextlib
import shlex
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from pmagic import settings
from pmagic.cli import names
from pmagic.cli.console import Console
from pmagic.cli.options import AsJson, Quiet
from pmagic.errors import UsageError
from pmagic.library import naming, unfinished
from pmagic.library.store import Library


def remove(
    name: Annotated[str, typer.Argument(help="alice (all versions), or alice@1", autocompletion=names.personas)],
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask; without a terminal nothing is asked anyway.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Remove a persona and everything of it in the library. There is no way back; of several versions it asks first.

    The photo is not touched, nor what was written elsewhere: pictures, previews, plots and archives.

    \b
    pmagic rm alice@1    (one version)
    pmagic rm alice      (all versions, checkpoints and what a probe has found)
    """
    console = Console(quiet=quiet, as_json=as_json)
    library = Library(settings.library_dir())
    library.clean_staging()  # also where the name is not there: a learning that was killed while saving has left a copy
    plain, version = naming.parse(name)
    versions = library.versions(plain) if version is None else []
    if len(versions) > 1 and not yes and console.talks and not as_json and sys.stdin.isatty():
        _ask(plain, versions)
    removed = []
    started = version is None and plain in unfinished.names(library.root)
    with unfinished.locked_run(library.root, plain) if started else contextlib.nullcontext() as folder:
        if not started or library.versions(plain):
            removed = [str(address) for address in library.remove(name)]
        if folder is not None:
            unfinished.clear(folder, f"{', '.join(removed)} removed; " if removed else "")
    console.say("the files are unlinked, which is no secure erase: a disk may still hold their bytes")
    console.say("pictures, previews, plots and archives stay where they were written: remove those yourself")
    console.result(
        [*removed, *([f"{plain} (unfinished)"] if started else [])], {"removed": removed, "unfinished": started}
    )


def _ask(name: str, versions: Sequence[int]) -> None:
    """UsageError unless the person agrees to lose all versions."""
    shown = ", ".join(f"{name}@{each}" for each in versions)
    if not typer.confirm(f"this removes {shown}, with no way back; go on?", err=True):
        raise UsageError(
            "nothing was removed",
            f"`pmagic rm {shlex.quote(f'{name}@{versions[-1]}')}` removes one version",
            kept=shown,
        )
