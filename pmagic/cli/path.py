"""`pmagic path`: prints where the library or a persona is."""

from typing import Annotated

import typer

from pmagic import settings
from pmagic.cli import names
from pmagic.cli.console import Console
from pmagic.cli.options import AsJson, Quiet
from pmagic.library.naming import folder_of
from pmagic.library.store import Library


def path(
    name: Annotated[
        str | None, typer.Argument(help="alice, or alice@1 (default: the library).", autocompletion=names.personas)
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Print the folder of a persona's version, or of the library.

    \b
    pmagic path
    pmagic path alice@1
    """
    library = Library(settings.library_dir())
    folder = str(library.root if name is None else folder_of(library.root, library.find(name)))
    Console(quiet=quiet, as_json=as_json).result([folder], {"path": folder})
