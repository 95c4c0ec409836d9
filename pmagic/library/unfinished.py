"""Checkpoints of learnings that were stopped: one folder for each name beside the personas, gone once it is learned."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pmagic.errors import Busy
from pmagic.library import durable
from pmagic.library.naming import checked_name

FOLDER = ".unfinished"
_LOCK = ".lock"


@contextmanager
def alone(root: Path, name: str) -> Iterator[Path]:
    """The folder for `name`'s checkpoints, while no other process learns that name (Busy).

    Left empty, it is removed.
    """
    import filelock

    folder = root / FOLDER / checked_name(name)
    with durable.storing(f"the checkpoint of {name!r}"):
        durable.make_folder(folder)
        lock = filelock.FileLock(folder / _LOCK, timeout=0, mode=durable.FILE_MODE)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise Busy(f"another pmagic is learning {name!r}", "wait for it to end, or use another name") from error
    try:
        yield folder
    finally:
        if [each.name for each in folder.iterdir()] == [_LOCK]:
            durable.erase(folder)
        lock.release()


def file_for(folder: Path, inputs: Mapping[str, object]) -> Path:
    """The checkpoint that belongs to exactly these inputs: another photo or setting is another learning."""
    digest = hashlib.sha256(json.dumps(dict(inputs), sort_keys=True, default=str).encode()).hexdigest()
    return folder / f"{digest[:32]}.checkpoint"


def clear(folder: Path) -> None:
    """Erases every checkpoint in a folder given by `alone`."""
    with durable.storing("the removal of checkpoints"):
        for each in folder.iterdir():
            if each.name != _LOCK:
                each.unlink()
        durable.sync_folder(folder)


def names(root: Path) -> list[str]:
    """The names that have an unfinished learning or a kept probe."""
    try:
        return sorted(
            each.name
            for each in (root / FOLDER).iterdir()
            if any(each.glob("*.checkpoint")) or any(each.glob("*.probe"))
        )
    except FileNotFoundError:
        return []
