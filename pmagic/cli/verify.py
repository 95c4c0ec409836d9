"""`pmagic verify`: whether every file of the kept personas is as it was written."""

from typing import Annotated

import typer

from pmagic import settings
from pmagic.cli import names
from pmagic.cli.console import Console
from pmagic.cli.list import end_unreadable
from pmagic.cli.options import AsJson, Quiet
from pmagic.errors import BundleDamaged, Incompatible, NotFound, StorageFailed, UsageProblem
from pmagic.library.store import Library


def verify(
    name: Annotated[
        str | None,
        typer.Argument(help="alice (the newest version) or alice@1; all without it.", autocompletion=names.personas),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them, as without a name.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Read every file of one persona, or of all, and compare its SHA-256. Ends with code 5 where one is damaged.

    \b
    pmagic verify alice
    pmagic verify --all -q    (only the names of damaged ones)
    """
    if everything and name is not None:
        raise UsageProblem(f"both {name!r} and --all are given", "leave one of them out")
    library = Library(settings.library_dir())
    chosen = [str(entry.address) for entry in library.entries()] if name is None else [str(library.find(name))]
    found: list[dict[str, object]] = []
    lines, code = [], 0
    for text in chosen:
        try:
            library.verify(text)
            found.append({"persona": text, "verified": True})
            lines += [] if quiet else [f"{text}  verified"]
        except NotFound:
            if name is not None:
                raise
        except (BundleDamaged, Incompatible, StorageFailed) as problem:
            code = max(code, problem.exit_code) if code != BundleDamaged.exit_code else code
            found.append({"persona": text, "verified": False, **problem.as_dict()})
            lines.append(text if quiet else f"{text}  {problem.what}")
    console = Console(quiet=quiet, as_json=as_json)
    console.result(lines, found)
    if not code and name is None:
        end_unreadable(console, library)
    if code:
        raise typer.Exit(code)
