"""`pmagic mv`: another name for a persona, all versions of it."""

from typing import Annotated

import typer

from pmagic import settings
from pmagic.cli import names
from pmagic.cli.console import Console
from pmagic.cli.options import AsJson, Quiet
from pmagic.library.store import Library


def move(
    name: Annotated[str, typer.Argument(help="The persona.", autocompletion=names.personas)],
    new: Annotated[str, typer.Argument(help="Its new name.")],
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Give a persona another name, with all its versions.

    \b
    pmagic mv alice alice-2019
    """
    moved = [str(address) for address in Library(settings.library_dir()).rename(name, new)]
    Console(quiet=quiet, as_json=as_json).result(moved, {"personas": moved})
