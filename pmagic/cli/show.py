"""`pmagic show`: shows one version, after checking all of its files."""

from collections.abc import Sequence
from typing import Annotated

import typer

from pmagic import settings
from pmagic.cli import curves, names
from pmagic.cli.console import Console, on_one_line
from pmagic.cli.options import AsJson, Quiet
from pmagic.library.naming import folder_of
from pmagic.library.store import Library

_FEW = 6  # a longer list is only counted


def show(
    name: Annotated[str, typer.Argument(help="alice, or alice@1", autocompletion=names.personas)],
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Show everything about a persona, and check its files.

    \b
    pmagic show alice
    pmagic show alice@1 --json
    """
    library = Library(settings.library_dir())
    address, about = library.verify(name)
    folder = folder_of(library.root, address)
    weights = {tensor: list(shape) for tensor, _, shape in about.tensors}
    document = {
        "persona": str(address),
        "versions": [f"{address.name}@{version}" for version in library.versions(address.name)],
        "folder": str(folder),
        "bytes": library.size(address),
        "method": about.method,
        "recipe": about.settings.get("recipe", ""),
        "base": about.base,
        "fingerprint": about.fingerprint,
        "word": about.word,
        "bounds": [about.bounds.low, about.bounds.high],
        "photos": list(about.photos),
        "losses": dict(about.losses),
        "curve": [list(point) for point in about.curve],
        "settings": dict(about.settings),
        "tensors": weights,
    }
    readable = {
        "bounds": f"dynamic for {about.bounds.low} <= t < {about.bounds.high}",
        "photos": [f"{len(about.photos)} ({', '.join(digest[:12] for digest in about.photos)})"],
        "curve": _curve(about.curve),
    }
    fields = {
        **document,
        **readable,
        "tensors": f"{len(weights)}, {document['bytes'] / 1e6:.1f} MB",
        "files": "all verified",
    }
    Console(quiet=quiet, as_json=as_json).result([str(address)] if quiet else _lines(fields), document)


def _curve(curve: Sequence[tuple[int, float]]) -> str:
    """The probe's IoU over falling t as one line, "" without a probe."""
    if not curve:
        return ""
    (first, low), (last, high) = curve[0], curve[-1]
    line = curves.sparkline([iou for _, iou in curve])
    return f"{line}  IoU {low:.2f} at t = {first} to {high:.2f} at t = {last}"


def _lines(document: dict[str, object], indent: str = "") -> list[str]:
    """One `key: value` a line. Tables are indented, and empty values are left out."""
    lines = []
    for key, value in document.items():
        if isinstance(value, dict):
            lines += [on_one_line(f"{indent}{key}:"), *_lines(value, indent + "  ")] if value else []
        elif isinstance(value, list) and len(value) > _FEW:
            lines.append(on_one_line(f"{indent}{key}: {len(value)} (--json shows them)"))
        elif isinstance(value, list):
            lines += [on_one_line(f"{indent}{key}: {', '.join(str(each) for each in value)}")] if value else []
        elif value != "":
            lines.append(on_one_line(f"{indent}{key}: {value}"))
    return lines
