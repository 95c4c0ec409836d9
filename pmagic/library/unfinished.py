"""Learning runs that were stopped: a folder for each name beside the personas, removed once the persona is learned.

It holds checkpoints, probe results (see probes), and the options with which the run was started.
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
from pmagic.library.naming import check_name
from pmagic.library.plain_values import is_table

FOLDER = ".unfinished"
_LOCK = ".lock"
_ORDER = "order.json"
_INPUTS = "inputs.json"  # what the run is learned from: hashes and values
_MAX_ORDER = 1024**2


@contextmanager
def locked_run(root: Path, name: str) -> Generator[Path]:
    """The folder for `name`'s checkpoints, while no other process learns that name (Busy).

    A folder without a checkpoint or a probe's result is removed at the end, because options alone are no progress.
    Where the person has stopped the run, its options stay, so that it can start again.
    """
    import filelock

    folder = root / FOLDER / check_name(name)
    with atomic_io.storing(f"the checkpoint of {name!r}"):
        atomic_io.make_folder(folder)
        lock = filelock.FileLock(folder / _LOCK, timeout=0, mode=atomic_io.FILE_MODE)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise Busy(f"another pmagic is learning {name!r}", "wait for it to end, or use another name") from error
    disposable = {_LOCK, _ORDER, _INPUTS}
    try:
        yield folder
    except (KeyboardInterrupt, PmagicError) as stop:
        if getattr(stop, "exit_code", STOPPED_BY_PERSON) == STOPPED_BY_PERSON:
            disposable = {_LOCK}
        raise
    finally:
        with contextlib.suppress(OSError):  # on a disk that cannot be changed an empty folder may stay
            if {each.name for each in folder.iterdir()} <= disposable:
                atomic_io.erase(folder)
        lock.release()


def file_for(folder: Path, inputs: Mapping[str, object]) -> Path:
    """The checkpoint that belongs to exactly these inputs: another photo or setting is another run."""
    digest = hashlib.sha256(json.dumps(dict(inputs), sort_keys=True, default=str).encode()).hexdigest()
    return folder / f"{digest[:32]}.checkpoint"


def clear(folder: Path, after: str = "") -> None:
    """Erases every checkpoint in a folder given by `locked_run`. after: what was done before, for the message."""
    kept = f"{after}the remaining files of the unfinished run are in {folder}"
    with atomic_io.storing("the removal of checkpoints"), atomic_io.visible_change(kept):
        for each in folder.iterdir():
            if each.is_dir() and not each.is_symlink():
                atomic_io.erase(each)
            elif each.name != _LOCK:
                each.unlink()
        atomic_io.sync_folder(folder)


@contextmanager
def renaming(root: Path, old: str, new: str) -> Generator[None]:
    """Locks both names; at the end the unfinished runs of `old` belong to `new`.

    Raises UsageError where `new` has unfinished runs of its own, and Busy.
    """
    if old not in names(root):
        yield
        return
    if new in names(root):
        raise UsageError(
            f"learning {new!r} was stopped, too",
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
    """Writes the options of the current run into a folder given by `locked_run`, in place of an earlier run's."""
    with atomic_io.storing("the options of the run"):
        atomic_io.replace_file(folder / _ORDER, data)


def read_options(root: Path, name: str) -> bytes:
    """The options that `keep_options` wrote; empty where the file is missing, too large or cannot be read."""
    try:
        with (root / FOLDER / name / _ORDER).open("rb") as file:
            data = file.read(_MAX_ORDER + 1)
    except OSError:
        return b""
    return data if len(data) <= _MAX_ORDER else b""


def keep_inputs(folder: Path, inputs: Mapping[str, object]) -> None:
    """Writes the inputs that decide the current run's result into a folder given by `locked_run`: plain values."""
    with atomic_io.storing("the inputs of the run"):
        atomic_io.replace_file(folder / _INPUTS, json.dumps(dict(inputs), sort_keys=True, default=str).encode())


def kept_inputs(folder: Path) -> Mapping[str, object] | None:
    """The inputs that `keep_inputs` wrote; None where they cannot be read, or an earlier version wrote none."""
    try:
        with (folder / _INPUTS).open("rb") as file:
            inputs = json.loads(file.read(_MAX_ORDER))
    except (OSError, ValueError, RecursionError):
        return None
    return inputs if is_table(inputs) else None


def has_checkpoint(folder: Path) -> bool:
    return any(folder.glob("*.checkpoint"))


def resumable_names(root: Path) -> list[str]:
    """The names whose stopped run can be resumed with its own options."""
    return [name for name in names(root) if (root / FOLDER / name / _ORDER).is_file()]


def is_running(root: Path, name: str) -> bool:
    """Whether a process is learning that name now."""
    import filelock

    path = root / FOLDER / name / _LOCK
    if not path.exists():
        return False
    try:
        with filelock.FileLock(path, timeout=0, mode=atomic_io.FILE_MODE):
            return False
    except (filelock.Timeout, OSError):
        return True


def names(root: Path) -> list[str]:
    """The names with anything unfinished: a checkpoint, a probe's result, options."""
    try:
        folders = sorted((root / FOLDER).iterdir())
    except FileNotFoundError:
        return []
    return [each.name for each in folders if each.is_dir() and any(file.name != _LOCK for file in each.iterdir())]
