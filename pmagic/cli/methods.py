"""`pmagic methods`: the ways of learning there are, what each trains, and how much of it is kept."""

from typing import Annotated

import typer

from pmagic import methods, settings
from pmagic.cli import names
from pmagic.cli.console import Console, table
from pmagic.cli.options import AsJson, Quiet
from pmagic.engine import recipes
from pmagic.tasks import base_options


def list_methods(
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            help="The base on which the sizes are counted; mini unless you have set another.",
            autocompletion=names.bases,
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """List the methods that `learn --method` and `eval --method` take.

    \b
    pmagic methods
    pmagic methods -q    (only the names)
    """
    console = Console(quiet=quiet, as_json=as_json)
    if quiet and not as_json:
        console.result(methods.names(), None)
        return
    spec = base_options.choose_base(base or settings.config().base or base_options.DEMO)
    documents, rows, sources = [], [], []
    for name in methods.names():
        method = methods.take(name)
        size = methods.persona_bytes(method, spec, method.settings_for(recipes.DEFAULT, spec.defaults))
        about = {"name": name, "trained": method.TRAINED, "bytes": size, "base": spec.name, "source": method.SOURCE}
        documents.append(about)
        rows.append((name, f"{size / 1e6:.2f} MB", method.TRAINED))
        sources.append(f"{name}: {method.SOURCE}")
    lines = table(rows, ("METHOD", "ON DISK", "WHAT IS TRAINED"))
    console.result([*lines, "", *sources, f"Sizes are of one persona on the base {spec.name}."], documents)
