"""`pmagic verify`: checks that every file of the personas is as it was written."""

from pathlib import Path
from typing import Annotated

import typer

from pmagic import settings
from pmagic.cli import names
from pmagic.cli.console import Console, on_one_line
from pmagic.cli.list import exit_if_unreadable
from pmagic.cli.options import AsJson, Quiet
from pmagic.errors import BundleDamaged, Incompatible, NotFound, StorageFailed, UsageError, WeightsMissing
from pmagic.library.store import Library


def verify(
    name: Annotated[
        str | None,
        typer.Argument(help="alice (the newest version) or alice@1 (default: all).", autocompletion=names.personas),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All personas, as without a name.")] = False,
    base: Annotated[
        str | None,
        typer.Option("--base", help="Check a base and its vision models instead.", autocompletion=names.bases),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Read every file of one persona, or of all, and compare its SHA-256. The exit code is 5 if one is damaged.

    \b
    pmagic verify alice
    pmagic verify --all -q    (only the names of damaged ones)
    pmagic verify --base mini
    """
    if base is not None:
        if everything or name is not None:
            raise UsageError("--base is given with a persona or --all", "run the command once for each")
        _verify_weights(Console(quiet=quiet, as_json=as_json), base)
        return
    if everything and name is not None:
        raise UsageError(f"both {name!r} and --all are given", "leave one of them out")
    library = Library(settings.library_dir())
    addresses = [str(entry.address) for entry in library.entries()] if name is None else [str(library.find(name))]
    results: list[dict[str, object]] = []
    lines, code = [], 0
    for text in addresses:
        try:
            library.verify(text)
            results.append({"persona": text, "verified": True})
            lines += [] if quiet else [f"{text}  verified"]
        except NotFound:
            if name is not None:
                raise
        except (BundleDamaged, Incompatible, StorageFailed) as problem:
            code = max(code, problem.exit_code) if code != BundleDamaged.exit_code else code
            results.append({"persona": text, "verified": False, **problem.as_dict()})
            lines.append(text if quiet else f"{text}  {problem.what}")
    console = Console(quiet=quiet, as_json=as_json)
    if not results:
        console.say("there is no persona yet: pmagic learn PHOTO --name NAME")
    console.result(lines, results)
    if not code and name is None:
        exit_if_unreadable(console, library)
    if code:
        raise typer.Exit(code)


def _verify_weights(console: Console, name: str) -> None:
    """Compares each folder of a base with its SHA256SUMS. Exits with 5 for a fault, with 7 for missing sums."""
    from pmagic.bases import checksums, model_spec

    base = model_spec.require_weights(model_spec.resolve(name))
    places = (base.folder, *(getattr(base, name) for name in model_spec.OBSERVERS.values()))
    results: list[dict[str, object]] = []
    faulty_files: set[str] = set()
    lines: list[str] = []
    for folder in dict.fromkeys(each for each in places if isinstance(each, Path)):
        try:
            faults = checksums.faults(folder)
        except OSError as error:
            raise StorageFailed(f"{folder} cannot be read: {error.strerror}", "correct its permissions") from error
        if faults is None:
            faults = [(checksums.FILE, "it is missing, so there is nothing to compare with")]
        results.append({"folder": str(folder), "verified": not faults, "faults": dict(faults)})
        faulty_files.update(file for file, _ in faults)
        lines += [str(folder / file) if console.quiet else f"{folder / file}  {what}" for file, what in faults]
        lines += [] if faults or console.quiet else [f"{folder}  verified"]
    console.result([on_one_line(line) for line in lines], results)
    if faulty_files:
        console.say(
            "to replace a downloaded model use `pmagic models rm` and `pmagic models pull`; "
            "the shipped one comes with pmagic"
        )
        raise typer.Exit(WeightsMissing.exit_code if faulty_files == {checksums.FILE} else BundleDamaged.exit_code)
