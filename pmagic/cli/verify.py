"""`pmagic verify`: whether every file of the kept personas is as it was written."""

from typing import Annotated

import typer

from pmagic import settings
from pmagic.cli import names
from pmagic.cli.console import Console
from pmagic.errors import BundleDamaged, Incompatible
from pmagic.library.store import Library


def verify(
    name: Annotated[
        str | None,
        typer.Argument(help="alice (the newest version) or alice@1; all without it.", autocompletion=names.personas),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Read every file of one persona, or of all, and compare its SHA-256. Ends with code 5 where one is damaged."""
    library = Library(settings.library_dir())
    chosen = [str(entry.address) for entry in library.entries()] if name is None else [str(library.find(name))]
    found: list[dict[str, object]] = []
    lines, code = [], 0
    for text in chosen:
        try:
            library.verify(text)
            found.append({"persona": text, "verified": True})
            lines.append(f"{text}  verified")
        except (BundleDamaged, Incompatible) as problem:
            code = max(code, problem.exit_code) if code != BundleDamaged.exit_code else code
            found.append({"persona": text, "verified": False, **problem.as_dict()})
            lines.append(f"{text}  {problem.what}")
    Console(as_json=as_json).result(lines, found)
    if code:
        raise typer.Exit(code)
