"""Removing models that were pulled, and what a removal that did not come to its end has left of one."""

import contextlib
import os
import re
from pathlib import Path

from pmagic import atomic_io, settings

# The process that removes has its number in the hidden folder's name: what another one is erasing is left alone.
_HIDDEN = re.compile(r"\.(?P<model>.+?)(?:\.part)?\.(?P<process>\d+)\.removed", re.ASCII)


def remove(folder: Path) -> None:
    """Takes a model's folder out of sight in one step, then erases it; StorageFailed says what has happened of that."""
    with atomic_io.storing(f"the removal of {folder.name}"):
        atomic_io.withdraw(folder, folder.with_name(f".{folder.name}.{os.getpid()}.removed"))


def left_of(place: Path) -> list[Path]:
    """The hidden folders that removals of the model at `place` have left."""
    return [each for each, model in _left().items() if model == place.name]


def clear_left() -> None:
    """Erases what removals have left of any model; what cannot be erased now stays for the next change."""
    for each in _left():
        with contextlib.suppress(OSError):
            atomic_io.erase(each)


def size(folder: Path) -> int:
    """Bytes of all its files."""
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())


def _left() -> dict[Path, str]:
    """Hidden folders of removals whose process has ended, each with its model's folder name."""
    try:
        folders = sorted(settings.models_dir().iterdir())
    except OSError:
        return {}
    named = {each: found for each in folders if (found := _HIDDEN.fullmatch(each.name))}
    return {each: found["model"] for each, found in named.items() if not atomic_io.is_running(int(found["process"]))}
