"""`pmagic cp`: copies one version of a persona to another name."""

from typing import Annotated

import typer

from pmagic import settings
from pmagic.cli import names
from pmagic.cli.console import Console
from pmagic.cli.options import AsJson, Quiet
from pmagic.library.store import Library


def copy(
    name: Annotated[str, typer.Argument(help="alice (the newest version), or alice@1", autocompletion=names.personas)],
    new: Annotated[str, typer.Argument(help="The name of the copy.")],
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Copy one version of a persona to another name.

    \b
    pmagic cp alice@1 young-alice
    """
    address = str(Library(settings.library_dir()).copy(name, new))
    Console(quiet=quiet, as_json=as_json).result([address], {"persona": address})
