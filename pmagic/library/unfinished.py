"""Learnings that were stopped: a folder for each name beside the personas, gone once it is learned.

It holds checkpoints, what a probe has found (see probes), and the order: the words the learning was started with.
"""

import contextlib
import hashlib
import json
import shlex
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pmagic import atomic_io
from pmagic.errors import STOPPED_BY_PERSON, Busy, PmagicError, UsageError
from pmagic.library.naming import checked_name
from pmagic.library.plain_values import is_table

FOLDER = ".unfinished"
_LOCK = ".lock"
_ORDER = "order.json"
_INPUTS = "inputs.json"  # what the order came to: hashes and values
_MAX_ORDER = 1024**2


@contextmanager
def locked_run(root: Path, name: str) -> Generator[Path]:
    """The folder for `name`'s checkpoints, while no other process learns that name (Busy).

    Left without checkpoint and probe, it is removed: an order alone is nothing to go on from. Only where the person
    has stopped it the order stays, so that the learning can begin again.
    """
    import filelock

    folder = root / FOLDER / checked_name(name)
    with atomic_io.storing(f"the checkpoint of {name!r}"):
        atomic_io.make_folder(folder)
        lock = filelock.FileLock(folder / _LOCK, timeout=0, mode=atomic_io.FILE_MODE)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise Busy(f"another pmagic is learning {name!r}", "wait for it to end, or use another name") from error
    nothing = {_LOCK, _ORDER, _INPUTS}
    try:
        yield folder
    except (KeyboardInterrupt, PmagicError) as stop:
        if getattr(stop, "exit_code", STOPPED_BY_PERSON) == STOPPED_BY_PERSON:
            nothing = {_LOCK}
        raise
    finally:
        with contextlib.suppress(OSError):  # on a disk that cannot be changed an empty folder may stay
            if {each.name for each in folder.iterdir()} <= nothing:
                atomic_io.erase(folder)
        lock.release()


def file_for(folder: Path, inputs: Mapping[str, object]) -> Path:
    """The checkpoint that belongs to exactly these inputs: another photo or setting is another learning."""
    digest = hashlib.sha256(json.dumps(dict(inputs), sort_keys=True, default=str).encode()).hexdigest()
    return folder / f"{digest[:32]}.checkpoint"


def clear(folder: Path, after: str = "") -> None:
    """Erases every checkpoint in a folder given by `alone`. after: what was done before it, said where it fails."""
    kept = f"{after}what is left of the unfinished learning lies in {folder}"
    with atomic_io.storing("the removal of checkpoints"), atomic_io.visible_change(kept):
        for each in folder.iterdir():
            if each.is_dir() and not each.is_symlink():
                atomic_io.erase(each)
            elif each.name != _LOCK:
                each.unlink()
        atomic_io.sync_folder(folder)


@contextmanager
def renaming(root: Path, old: str, new: str) -> Generator[None]:
    """While inside nobody learns either name; at the end what is unfinished of `old` is `new`'s.

    Raises UsageError where `new` has something unfinished itself, Busy.
    """
    if old not in names(root):
        yield
        return
    if new in names(root):
        raise UsageError(
            f"a learning of {new!r} was stopped, too",
            f"remove it with `pmagic rm {shlex.quote(new)}`, or use another name",
        )
    with locked_run(root, old) as source, locked_run(root, new) as target:
        yield
        kept = f"{old!r} is called {new!r} now; what is unfinished may be in {source} or in {target}"
        with atomic_io.storing(f"what is unfinished of {new!r}"), atomic_io.visible_change(kept):
            for each in source.iterdir():
                if each.name != _LOCK:
                    atomic_io.rename_new(each, target / each.name)
            atomic_io.sync_folder(target)
            atomic_io.sync_folder(source)


def keep_options(folder: Path, data: bytes) -> None:
    """The words of the learning that is under way in a folder given by `alone`, in place of those of an earlier one."""
    with atomic_io.storing("what was asked for"):
        atomic_io.replace_file(folder / _ORDER, data)


def read_options(root: Path, name: str) -> bytes:
    """What `keep_order` kept; empty where it is too large or cannot be read, which is no order."""
    try:
        with (root / FOLDER / name / _ORDER).open("rb") as file:
            data = file.read(_MAX_ORDER + 1)
    except OSError:
        return b""
    return data if len(data) <= _MAX_ORDER else b""


def keep_inputs(folder: Path, inputs: Mapping[str, object]) -> None:
    """All that decides what the learning under way learns, in a folder given by `alone`: plain values."""
    with atomic_io.storing("what is learned from"):
        atomic_io.replace_file(folder / _INPUTS, json.dumps(dict(inputs), sort_keys=True, default=str).encode())


def kept_inputs(folder: Path) -> Mapping[str, object] | None:
    """What `keep_inputs` kept; None where there is nothing that can be read, as an earlier version leaves it."""
    try:
        with (folder / _INPUTS).open("rb") as file:
            found = json.loads(file.read(_MAX_ORDER))
    except (OSError, ValueError, RecursionError):
        return None
    return found if is_table(found) else None


def has_checkpoint(folder: Path) -> bool:
    return any(folder.glob("*.checkpoint"))


def resumable_names(root: Path) -> list[str]:
    """The names whose learning was stopped and can go on by itself."""
    return [name for name in names(root) if (root / FOLDER / name / _ORDER).is_file()]


def names(root: Path) -> list[str]:
    """The names that have anything unfinished: a checkpoint, a kept probe, an order."""
    try:
        folders = sorted((root / FOLDER).iterdir())
    except FileNotFoundError:
        return []
    return [each.name for each in folders if each.is_dir() and any(file.name != _LOCK for file in each.iterdir())]
