"""The only module that writes lasting files: private, flushed to the disk, published by a rename that replaces nothing.

Every function lets an OSError pass; `storing` turns it into a StorageFailed with a next step.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from pmagic.errors import StorageFailed

Buffer = bytes | bytearray
Content = Buffer | Sequence[Buffer | memoryview]  # of a file, in one piece or a list of several
FILE_MODE = 0o600
FOLDER_MODE = 0o700
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_KEPT = "kept"  # what `visible_change` tells `storing`, as an attribute of the OSError


@contextmanager
def storing(what: str) -> Generator[None]:
    """Turns an OSError inside into StorageFailed. what: the thing that could not be stored, as the message calls it."""
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "free some space on the disk and run the command again",
            errno.EDQUOT: "free some of your disk quota and run the command again",
            errno.EACCES: "check the permissions of the folder, or set PMAGIC_HOME to one you may write",
            errno.ENAMETOOLONG: "give a shorter name",
            errno.EROFS: "the disk is read-only: set PMAGIC_HOME or --out to one you may write",
        }
        raise StorageFailed(
            f"cannot store {what}: {error.strerror or error}",
            advice.get(error.errno or 0, "check the disk and run the command again"),
            kept=getattr(error, _KEPT, "nothing that was stored before has changed"),
        ) from error


@contextmanager
def visible_change(kept: str) -> Generator[None]:
    """Marks a change that is visible already and that a failure cannot undo; `storing` then reports `kept`."""
    try:
        yield
    except OSError as error:
        if not hasattr(error, _KEPT):
            setattr(error, _KEPT, kept)
        raise


def make_folder(path: Path) -> None:
    """Creates the folder and its missing parents, private to the person, each entry flushed."""
    if path.is_dir():
        return
    make_folder(path.parent)
    try:
        os.mkdir(path, FOLDER_MODE)
    except FileExistsError:
        if not path.is_dir():
            raise
        return
    sync_folder(path.parent)


def write_file(path: Path, data: Content) -> None:
    """Writes a new private file and flushes it to the disk; FileExistsError where `path` exists."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, FILE_MODE)
    try:
        _write(descriptor, data)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Flushes the folder's own entries: without this, a loss of power may undo a rename."""
    if os.name == "nt":
        return  # Windows has no handle to flush a folder by
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename_new(source: Path, target: Path) -> None:
    """Renames without ever replacing; FileExistsError where `target` exists.

    A plain rename silently replaces an empty folder. Where the system has no renameat2, the check before the
    rename is enough under the library's lock.
    """
    if sys.platform == "linux" and _rename_noreplace(source, target):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)


def publish_folder(files: Mapping[str, Buffer], staging: Path, target: Path) -> None:
    """Writes `files` into the new folder `staging`, then makes it visible as `target`, all or nothing."""
    try:
        make_folder(staging)
        for name, data in files.items():
            write_file(staging / name, data)
        sync_folder(staging)
        rename_new(staging, target)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)  # a partial copy must not use up a full disk
        raise
    with visible_change(f"{target} is there, but a loss of power may still undo it"):
        sync_folder(target.parent)


def publish_file(data: Content, target: Path) -> Path:
    """Writes `data` as `target`, or under the next free numbered name; returns the path it got.

    On Linux the file has no name until it is complete, so that a killed process leaves nothing behind.
    """
    make_folder(target.parent)
    path = _publish_nameless(data, target)
    if path is not None:
        return path
    part = target.with_name(f".{target.name[:100]}.{os.getpid()}.part")
    part.unlink(missing_ok=True)  # left by a killed process with the same id
    try:
        write_file(part, data)
        path = next(each for each in _numbered_paths(target) if _rename_if_free(part, each))
        sync_folder(path.parent)
        return path
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def replace_file(path: Path, data: Content) -> None:
    """Writes `data` as `path`, in place of what was there: a reader finds the old bytes or the new ones."""
    _erase_parts(path)
    part = path.with_name(f".{path.name[:100]}.{os.getpid()}.part")
    try:
        write_file(part, data)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    with visible_change(f"{path} has its new content, but a loss of power may still undo it"):
        sync_folder(path.parent)


def withdraw(path: Path, staging: Path) -> None:
    """Takes a published folder out of sight in one step, then erases it."""
    make_folder(staging.parent)
    if os.path.lexists(staging):
        erase(staging)  # left by an earlier removal
    rename_new(path, staging)
    with visible_change(f"{path} is removed; what is left of its files lies in {staging}"):
        sync_folder(path.parent)
        erase(staging)


def erase(path: Path) -> None:
    """Unlinks a folder and everything in it (links are unlinked, never followed). No secure erase."""
    shutil.rmtree(path)
    sync_folder(path.parent)


def _erase_parts(path: Path) -> None:
    """Unlinks the part files that killed processes have left of a `replace_file` of this path."""
    prefix = f".{path.name[:100]}."
    for each in path.parent.iterdir():
        number = each.name.removeprefix(prefix).removesuffix(".part")
        if each.name == f"{prefix}{number}.part" and number.isdecimal() and not is_running(int(number)):
            each.unlink(missing_ok=True)


def is_running(number: int) -> bool:
    """Whether another process has this id; this process itself has no part file yet."""
    if number == os.getpid():
        return False
    if os.name == "nt":
        return True  # on Windows `os.kill` would end the process
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _write(descriptor: int, data: Content) -> None:
    parts = [data] if isinstance(data, bytes | bytearray) else data
    for part in parts:
        rest = memoryview(cast(Buffer, part))
        while rest:
            rest = rest[os.write(descriptor, rest) :]  # a short write is legal
    os.fsync(descriptor)


def _publish_nameless(data: Content, target: Path) -> Path | None:
    """`publish_file` through a file without a name; None where the system or the file system has no such files."""
    if not hasattr(os, "O_TMPFILE"):
        return None
    try:
        descriptor = os.open(target.parent, os.O_WRONLY | os.O_TMPFILE, FILE_MODE)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            return None
        raise
    try:
        _write(descriptor, data)
        path = next(each for each in _numbered_paths(target) if _link_if_free(descriptor, each))
    finally:
        os.close(descriptor)
    sync_folder(path.parent)
    return path


def _numbered_paths(path: Path) -> Iterator[Path]:
    yield path
    number = 2
    while True:
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1


def _rename_if_free(source: Path, target: Path) -> bool:
    """Renames `source` to `target`; False where `target` exists."""
    try:
        rename_new(source, target)
    except FileExistsError:
        return False
    return True


def _link_if_free(descriptor: int, target: Path) -> bool:
    """Gives the open file the name `target`; False where `target` exists."""
    try:
        # With any src_dir_fd, Python calls linkat, which can follow the link in /proc to the open file.
        os.link(f"/proc/self/fd/{descriptor}", target, src_dir_fd=descriptor, follow_symlinks=True)
    except FileExistsError:
        return False
    return True


def _rename_noreplace(source: Path, target: Path) -> bool:
    """Linux's renameat2 with RENAME_NOREPLACE; False where the C library or the file system has none."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    done = renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE)
    if done == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(number, os.strerror(number), str(target))
