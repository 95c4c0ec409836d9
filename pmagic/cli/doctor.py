"""`pmagic doctor`: what is installed, what is where, what is wrong and how to mend it. Nothing private is in it."""

import os
import platform
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

import pmagic
from pmagic import settings
from pmagic.cli import choosing
from pmagic.cli.console import Console
from pmagic.errors import Problem
from pmagic.library import unfinished
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
    free = needs.memory_free()
    problems = [*_configuration(), *_disk(), *_library(library), *_models()]
    document: dict[str, Any] = {
        "pmagic": pmagic.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "libraries": {name: _version(name) for name in LIBRARIES},
        **_device(),
        "memory free": "unknown" if free is None else f"{free / 1e9:.1f} GB",
        "disk free": f"{shutil.disk_usage(_existing(library.root)).free / 1e9:.1f} GB",
        "models": {each.name: "here" if not card.missing_parts(each) else "not here" for each in card.known()},
        "offline": bool(os.environ.get("HF_HUB_OFFLINE")),
        "personas": len(library.addresses()),
        "unfinished": len(unfinished.names(library.root)),
        "places": {
            "library": _shown(library.root),
            "models": _shown(settings.models_dir()),
            "configuration": _shown(settings.config_file()),
            "logs": _shown(settings.log_dir()),
        },
        "settings": _settings(),
        "problems": [{name: _homeless(text) for name, text in each.items()} for each in problems],
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
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _device() -> dict[str, object]:
    import torch

    if torch.cuda.is_available():
        free, whole = torch.cuda.mem_get_info()
        memory = f"{free / 1e9:.1f} of {whole / 1e9:.1f} GB"
        return {"device": f"cuda: {torch.cuda.get_device_name()}", "device memory free": memory}
    if torch.backends.mps.is_available():
        return {"device": "mps"}
    return {"device": f"cpu: {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"}


def _settings() -> dict[str, str]:
    """What config.toml and the environment say; nothing where they cannot be used, which is told as a problem."""
    try:
        return {name: _homeless(str(value)) for name, value in vars(settings.config()).items() if value is not None}
    except Problem:
        return {}


def _configuration() -> Iterator[dict[str, str]]:
    from pmagic.bases import loading

    try:
        config = settings.config()
    except Problem as problem:
        yield {"what": problem.what, "next": problem.next_step}
        return
    for check in (
        lambda: None if config.base is None else choosing.choose_base(config.base),
        lambda: loading.device_named(config.device),
    ):
        try:
            check()
        except Problem as problem:
            yield {"what": problem.what, "next": problem.next_step}


def _models() -> Iterator[dict[str, str]]:
    """Bases that are here without what learning needs beside them, and downloads that were interrupted."""
    from pmagic.bases import card

    for each in card.known():
        lacking = card.missing_parts(each) if each.folder is not None else []
        if lacking:
            yield {
                "what": f"the base {each.name} lacks {', '.join(lacking)}",
                "next": f"pmagic models pull {each.name}",
            }
    for part in settings.models_dir().glob("*.part"):
        name = part.name.removesuffix(".part").replace("--", "/", 1)
        yield {
            "what": f"a download of {name} was interrupted",
            "next": f"pmagic models pull {name} goes on with it, pmagic models rm {name} removes it",
        }


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
    damaged = 0
    for address in library.addresses():
        try:
            library.verify(str(address))
        except Problem:
            damaged += 1  # by name they would be private
    if damaged:
        yield {"what": f"{damaged} of the kept personas cannot be used", "next": "pmagic verify --all names them"}


def _existing(path: Path) -> Path:
    """The path itself, or its nearest parent that is there."""
    return next(each for each in (path, *path.parents) if each.exists())


def _shown(path: Path) -> str:
    return _homeless(str(path))


def _homeless(text: str) -> str:
    """With ~ for the person's home: a bug report needs no user name."""
    return text.replace(str(Path.home()), "~")
