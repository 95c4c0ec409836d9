"""`pmagic doctor`: what is installed, where things are, what is wrong and how to fix it. Its output is not private."""

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
    """Show versions, device, memory, disk, folders, models and problems. The exit code is 1 if there are problems.

    \b
    pmagic doctor
    pmagic doctor --json > report.json
    """
    from pmagic.bases import memory_estimate

    library = Library(settings.library_dir())
    free = memory_estimate.memory_free()
    running = {name for name in unfinished.names(library.root) if unfinished.is_running(library.root, name)}
    problems = [*_configuration(), *_disk(), *_library(library), *_models()]
    document: dict[str, Any] = {
        "pmagic": pmagic.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "libraries": {name: _version(name) for name in LIBRARIES},
        **_device(),
        "memory free": "unknown" if free is None else f"{free / 1e9:.1f} GB",
        "disk free": f"{shutil.disk_usage(_nearest_folder(library.root)).free / 1e9:.1f} GB",
        "models": {name: _state(name) for name in shelf.names("bases.known")},
        "offline": network.offline(),
        "personas": len(library.addresses()),
        "learning now": len(running),
        "unfinished": len(set(unfinished.names(library.root)) - running),
        "places": {
            "library": _show_path(library.root),
            "models": _show_path(settings.models_dir()),
            "configuration": _show_path(settings.config_file()),
            "logs": _show_path(settings.log_dir()),
        },
        "settings": _settings(),
        "problems": [{name: _hide_home(text) for name, text in each.items()} for each in problems],
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
    """The values of config.toml and the environment; {} if one is invalid, which is reported as a problem."""
    try:
        return {name: _hide_home(str(value)) for name, value in vars(settings.config()).items() if value is not None}
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
    """Problems of models: bases that lack what learning needs, and interrupted downloads."""
    from pmagic.bases import fetching, model_spec

    needs = (model_spec.require_weights, _faces, _masks)
    problems = {
        problem.what: problem.next_step for name in shelf.names("bases.known") for problem in _find_lacks(name, needs)
    }
    for what, next_step in problems.items():  # a model that several bases lack is reported once
        yield {"what": what, "next": next_step}
    for part in settings.models_dir().glob("*.part"):
        name = part.name.removesuffix(".part").replace("--", "/", 1)
        again = "starts it again" if name in fetching.PACKS else "continues it"
        yield {
            "what": f"a download of {name} was interrupted",
            "next": f"pmagic models pull {name} {again}, pmagic models rm {name} removes it",
        }


def _find_lacks(name: str, needs: Sequence[Callable[["ModelSpec"], object]]) -> Iterator[PmagicError]:
    """The problems of a base that is on this machine: which of its needs it does not meet."""
    from pmagic.bases import model_spec

    try:
        spec = model_spec.resolve(name)
    except PmagicError as problem:
        yield problem
        return
    if spec.folder is None:
        return
    for need in needs:
        try:
            need(spec)
        except PmagicError as problem:
            yield problem


def _faces(spec: "ModelSpec") -> None:
    from pmagic.engine import subject

    subject.require_observers(spec, "face", masked=True, recognised=True)


def _masks(spec: "ModelSpec") -> None:
    from pmagic.engine import subject

    subject.require_observers(spec, "face", masked=False, recognised=False)


def _disk() -> Iterator[dict[str, str]]:
    folder = _nearest_folder(settings.library_dir())
    if not os.access(folder, os.W_OK):
        yield {
            "what": f"{_show_path(folder)} cannot be written",
            "next": "correct its permissions, or set PMAGIC_HOME to a folder of your own",
        }
    if shutil.disk_usage(folder).free < LITTLE_DISK:
        yield {"what": f"the disk of {_show_path(folder)} is nearly full", "next": "free some space"}


def _library(library: Library) -> Iterator[dict[str, str]]:
    if library.root.is_dir() and os.name != "nt" and stat.S_IMODE(library.root.stat().st_mode) & 0o077:
        yield {
            "what": f"other users may read the personas in {_show_path(library.root)}",
            "next": f"chmod 700 {_show_path(library.root)}",
        }
    if library.has_leftovers():
        yield {
            "what": "a killed command has left a copy of a persona, or a command is changing the library now",
            "next": "`pmagic rm NAME`, with any name, erases such a copy, and so does every change of the library",
        }
    count = 0
    for address in library.addresses():
        try:
            library.verify(str(address))
        except PmagicError:
            count += 1  # only counted, because names are private
    if count:
        yield {
            "what": f"{count} of the personas in the library cannot be used",
            "next": "pmagic verify --all names them",
        }


def _nearest_folder(path: Path) -> Path:
    """The path itself, or its nearest existing parent."""
    return next(each for each in (path, *path.parents) if each.exists())


def _show_path(path: Path) -> str:
    return _hide_home(str(path))


def _hide_home(text: str) -> str:
    """Replaces the person's own folders: a bug report needs neither a user name nor the name of a disk."""
    for folder, name in _own_folders():
        text = re.sub(rf"(?<![\w.~-]){re.escape(folder)}(?![\w.-])", lambda match, name=name: name, text)
    return text


def _own_folders() -> Iterator[tuple[str, str]]:
    """(folder, its replacement), the longest folder first: a configured base, PMAGIC_HOME, the home."""
    folders = []
    with contextlib.suppress(PmagicError):
        base = settings.expand_path(settings.config().base or "mini")
        if base.is_absolute():
            folders += [(each, f".../{base.name}") for each in (base, base.resolve())]
    if os.environ.get("PMAGIC_HOME"):
        folders.append((settings.library_dir().parent, "$PMAGIC_HOME"))
    folders.append((Path.home(), "~"))
    return ((str(folder), name) for folder, name in folders if folder != Path(folder.anchor))
