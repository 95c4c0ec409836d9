"""`pmagic doctor`: what is installed, what is where, what is wrong and how to mend it. Nothing private is in it."""

import os
import platform
import shutil
import stat
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

import pmagic
from pmagic import settings
from pmagic.cli import choosing
from pmagic.cli.console import Console
from pmagic.errors import Problem
from pmagic.library.store import Library

LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "insightface",
    "onnxruntime",
    "safetensors",
    "numpy",
    "pillow",
    "typer",
)
LITTLE_DISK = 1e9  # bytes; a persona takes a few megabytes, a base four gigabytes


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, to paste into a report.")] = False,
) -> None:
    """Show versions, device, memory, disk, places and models, and what is wrong. Ends with code 1 if anything is.

    \b
    pmagic doctor
    pmagic doctor --json > report.json
    """
    from pmagic.bases import card, needs

    library = Library(settings.library_dir())
    entries = library.entries()
    free = needs.memory_free()
    problems = [*_configuration(), *_disk(), *_library(library)]
    document: dict[str, Any] = {
        "pmagic": pmagic.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "libraries": {name: _version(name) for name in LIBRARIES},
        **_device(),
        "memory free": "unknown" if free is None else f"{free / 1e9:.1f} GB",
        "disk free": f"{shutil.disk_usage(_existing(library.root)).free / 1e9:.1f} GB",
        "models": {each.name: "here" if not card.missing_parts(each) else "not here" for each in card.known()},
        "personas": len(entries),
        "places": {
            "library": _shown(library.root),
            "models": _shown(settings.models_dir()),
            "configuration": _shown(settings.config_file()),
            "logs": _shown(settings.log_dir()),
        },
        "problems": problems,
    }
    lines = [line for key, value in document.items() if key != "problems" for line in _lines(key, value)]
    if problems:
        lines += ["problems:", *(f"  {each['what']}\n    next: {each['next']}" for each in problems)]
    else:
        lines.append("nothing is wrong")
    Console(as_json=as_json).result(lines, document)
    if problems:
        raise typer.Exit(1)


def _lines(key: str, value: object) -> list[str]:
    if not isinstance(value, dict):
        return [f"{key}: {value}"]
    return [f"{key}:", *(f"  {name}: {each}" for name, each in value.items())]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _device() -> dict[str, object]:
    import torch

    if torch.cuda.is_available():
        return {"device": f"cuda: {torch.cuda.get_device_name()}"}
    if torch.backends.mps.is_available():
        return {"device": "mps"}
    return {"device": f"cpu: {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"}


def _configuration() -> Iterator[dict[str, str]]:
    try:
        base = settings.config().base
        if base is not None:
            choosing.choose_base(base)
    except Problem as problem:
        yield {"what": problem.what, "next": problem.next_step}


def _disk() -> Iterator[dict[str, str]]:
    folder = _existing(settings.library_dir())
    if not os.access(folder, os.W_OK):
        yield {
            "what": f"{_shown(folder)} cannot be written",
            "next": "correct its permissions, or set PMAGIC_HOME to a folder of your own",
        }
    if shutil.disk_usage(folder).free < LITTLE_DISK:
        yield {"what": f"the disk of {_shown(folder)} is nearly full", "next": "free some space"}


def _library(library: Library) -> Iterator[dict[str, str]]:
    if library.root.is_dir() and os.name != "nt" and stat.S_IMODE(library.root.stat().st_mode) & 0o077:
        yield {
            "what": f"others may read the personas in {_shown(library.root)}",
            "next": f"chmod 700 {_shown(library.root)}",
        }
    for entry in library.entries():
        try:
            library.verify(str(entry.address))
        except Problem as problem:
            yield {"what": f"{entry.address}: {problem.what}", "next": f"pmagic rm {entry.address}"}


def _existing(path: Path) -> Path:
    """The path itself, or its nearest parent that is there."""
    return next(each for each in (path, *path.parents) if each.exists())


def _shown(path: Path) -> str:
    """With ~ for the person's home: a bug report needs no user name."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
