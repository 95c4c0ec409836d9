"""`pmagic doctor`: what is installed, what is where, what is wrong and how to mend it. Nothing private is in it."""

import contextlib
import os
import platform
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import pmagic
from pmagic import network, settings, shelf
from pmagic.cli.console import Console
from pmagic.errors import PmagicError
from pmagic.library import unfinished
from pmagic.library.store import Library
from pmagic.tasks import base_options

if TYPE_CHECKING:
    from pmagic.bases.model_spec import ModelSpec

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
    from pmagic.bases import memory_estimate

    library = Library(settings.library_dir())
    free = memory_estimate.memory_free()
    problems = [*_configuration(), *_disk(), *_library(library), *_models()]
    document: dict[str, Any] = {
        "pmagic": pmagic.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "libraries": {name: _version(name) for name in LIBRARIES},
        **_device(),
        "memory free": "unknown" if free is None else f"{free / 1e9:.1f} GB",
        "disk free": f"{shutil.disk_usage(_existing(library.root)).free / 1e9:.1f} GB",
        "models": {name: _state(name) for name in shelf.names("bases.known")},
        "offline": network.offline(),
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
    except PmagicError:
        return {}


def _configuration() -> Iterator[dict[str, str]]:
    try:
        config = settings.config()
    except PmagicError as problem:
        yield {"what": problem.what, "next": problem.next_step}
        return
    for check in (
        lambda: None if config.base is None else base_options.choose_base(config.base),
        lambda: base_options.device(None),
    ):
        try:
            check()
        except PmagicError as problem:
            yield {"what": problem.what, "next": problem.next_step}


def _state(name: str) -> str:
    from pmagic.bases import model_spec

    try:
        return "not here" if model_spec.missing_parts(model_spec.resolve(name)) else "here"
    except PmagicError:
        return "cannot be used"


def _models() -> Iterator[dict[str, str]]:
    """Bases that are here without what learning needs beside them, and downloads that were interrupted."""
    from pmagic.bases import fetching, model_spec

    needs = (model_spec.require_weights, _faces, _masks)
    told = {problem.what: problem.next_step for name in shelf.names("bases.known") for problem in _lacking(name, needs)}
    for what, next_step in told.items():  # what several bases lack is told once
        yield {"what": what, "next": next_step}
    for part in settings.models_dir().glob("*.part"):
        name = part.name.removesuffix(".part").replace("--", "/", 1)
        again = "begins it anew" if name in fetching.PACKS else "goes on with it"
        yield {
            "what": f"a download of {name} was interrupted",
            "next": f"pmagic models pull {name} {again}, pmagic models rm {name} removes it",
        }


def _lacking(name: str, needs: Sequence[Callable[["ModelSpec"], object]]) -> Iterator[PmagicError]:
    """Which of its needs a base that is here does not meet."""
    from pmagic.bases import model_spec

    try:
        found = model_spec.resolve(name)
    except PmagicError as problem:
        yield problem
        return
    if found.folder is None:
        return
    for need in needs:
        try:
            need(found)
        except PmagicError as problem:
            yield problem


def _faces(found: "ModelSpec") -> None:
    from pmagic.engine import subject

    subject.require_observers(found, "face", masked=True, recognised=True)


def _masks(found: "ModelSpec") -> None:
    from pmagic.engine import subject

    subject.require_observers(found, "face", masked=False, recognised=False)


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
    if library.has_leftovers():
        yield {
            "what": "a command that was killed has left a copy of a persona, or one is changing the library now",
            "next": "`pmagic rm NAME` erases such a copy whatever the name, and so does every change of the library",
        }
    damaged = 0
    for address in library.addresses():
        try:
            library.verify(str(address))
        except PmagicError:
            damaged += 1  # by name they would be private
    if damaged:
        yield {"what": f"{damaged} of the kept personas cannot be used", "next": "pmagic verify --all names them"}


def _existing(path: Path) -> Path:
    """The path itself, or its nearest parent that is there."""
    return next(each for each in (path, *path.parents) if each.exists())


def _shown(path: Path) -> str:
    return _homeless(str(path))


def _homeless(text: str) -> str:
    """Without the folders that are the person's own: a bug report needs neither a user name nor a disk's."""
    for folder, shown in _own_folders():
        text = re.sub(rf"(?<![\w.~-]){re.escape(folder)}(?![\w.-])", lambda found, shown=shown: shown, text)
    return text


def _own_folders() -> Iterator[tuple[str, str]]:
    """(folder, what stands for it), the longest first: a configured base, PMAGIC_HOME, the home."""
    folders = []
    with contextlib.suppress(PmagicError):
        base = settings.expanded(settings.config().base or "mini")
        if base.is_absolute():
            folders += [(each, f".../{base.name}") for each in (base, base.resolve())]
    if os.environ.get("PMAGIC_HOME"):
        folders.append((settings.library_dir().parent, "$PMAGIC_HOME"))
    folders.append((Path.home(), "~"))
    return ((str(folder), shown) for folder, shown in folders if folder != Path(folder.anchor))
