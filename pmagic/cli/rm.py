"""`pmagic rm`: removes one version, or a name with all versions and unfinished work."""

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
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask. Without a terminal pmagic never asks.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Remove a persona from the library. This cannot be undone; before it removes several versions it asks.

    Files outside the library stay: the photo, pictures, previews, plots and archives.

    \b
    pmagic rm alice@1    (one version)
    pmagic rm alice      (all versions, checkpoints and the result of a probe)
    """
    console = Console(quiet=quiet, as_json=as_json)
    library = Library(settings.library_dir())
    library.clean_staging()  # for unknown names, too: a learning that was killed while saving has left a copy
    plain_name, version = naming.parse(name)
    versions = library.versions(plain_name) if version is None else []
    if len(versions) > 1 and not yes and console.talks and not as_json and sys.stdin.isatty():
        _ask(plain_name, versions)
    removed = []
    has_unfinished = version is None and plain_name in unfinished.names(library.root)
    with unfinished.locked_run(library.root, plain_name) if has_unfinished else contextlib.nullcontext() as folder:
        if not has_unfinished or library.versions(plain_name):
            removed = [str(address) for address in library.remove(name)]
        if folder is not None:
            unfinished.clear(folder, f"{', '.join(removed)} removed; " if removed else "")
    console.say("the files are unlinked, which is no secure erase: a disk may still hold their bytes")
    console.say("pictures, previews, plots and archives stay where they were written: remove those yourself")
    console.result(
        [*removed, *([f"{plain_name} (unfinished)"] if has_unfinished else [])],
        {"removed": removed, "unfinished": has_unfinished},
    )


def _ask(name: str, versions: Sequence[int]) -> None:
    """Raises UsageError unless the user agrees to remove all versions."""
    addresses = ", ".join(f"{name}@{each}" for each in versions)
    if not typer.confirm(f"this removes {addresses} and cannot be undone; continue?", err=True):
        raise UsageError(
            "nothing was removed",
            f"`pmagic rm {shlex.quote(f'{name}@{versions[-1]}')}` removes one version",
            kept=addresses,
        )
