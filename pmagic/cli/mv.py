"""`pmagic mv`: renames a persona with all its versions."""

from typing import Annotated

import typer

from pmagic import settings
from pmagic.cli import names
from pmagic.cli.console import Console
from pmagic.cli.options import AsJson, Quiet
from pmagic.library import naming, unfinished
from pmagic.library.store import Library


def move(
    name: Annotated[str, typer.Argument(help="The persona.", autocompletion=names.personas)],
    new: Annotated[str, typer.Argument(help="Its new name.")],
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Rename a persona with all its versions and its unfinished learning.

    \b
    pmagic mv alice alice-2019
    """
    library = Library(settings.library_dir())
    with unfinished.renaming(library.root, naming.check_name(name), naming.check_name(new)):
        moved = [str(address) for address in library.rename(name, new)]
    Console(quiet=quiet, as_json=as_json).result(moved, {"personas": moved})
