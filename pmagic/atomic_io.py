"""The only module that writes what must survive: private files, flushed, published by one rename that replaces nothing.

Every function raises OSError as it comes; `storing` turns it into the one problem a person can act on.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pmagic.errors import StorageFailed

FILE_MODE = 0o600
FOLDER_MODE = 0o700
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_KEPT = "kept"  # what `visible_change` tells `storing`, as an attribute of the OSError


@contextmanager
def storing(what: str) -> Generator[None]:
    """Names what could not be stored; a full disk and missing permission are not defects."""
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
    """While inside, a change is visible that a failure cannot take back; `storing` then says `kept` of it."""
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


def write_file(path: Path, data: bytes) -> None:
    """A new private file, flushed to the disk; FileExistsError where there is one."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, FILE_MODE)
    try:
        _write(descriptor, data)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Flushes the folder's own entries: without it a rename may be lost with the power."""
    if os.name == "nt":
        return  # Windows has no handle to flush a folder by
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename_new(source: Path, target: Path) -> None:
    """Renames without ever replacing; FileExistsError where `target` is.

    A plain rename silently replaces an empty folder. Where the system has no renameat2, the check before the
    rename is enough under the library's lock.
    """
    if sys.platform == "linux" and _rename_noreplace(source, target):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)


def publish_folder(files: Mapping[str, bytes], staging: Path, target: Path) -> None:
    """Writes `files` into the new folder `staging`, then makes it visible as `target`, all or nothing."""
    try:
        make_folder(staging)
        for name, data in files.items():
            write_file(staging / name, data)
        sync_folder(staging)
        rename_new(staging, target)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)  # on a full disk a part of a copy must not take what is left
        raise
    with visible_change(f"{target} is there, but a loss of power may still undo it"):
        sync_folder(target.parent)


def publish_file(data: bytes, target: Path) -> Path:
    """Writes `data` as `target`, or under the next free numbered name; returns the path it got.

    On Linux the file has no name before it is whole, so that a process that is killed leaves nothing of it.
    """
    make_folder(target.parent)
    path = _publish_nameless(data, target)
    if path is not None:
        return path
    aside = target.with_name(f".{target.name[:100]}.{os.getpid()}.part")
    aside.unlink(missing_ok=True)  # of a killed process that had this process's number
    try:
        write_file(aside, data)
        path = next(each for each in _numbered(target) if _renamed(aside, each))
        sync_folder(path.parent)
        return path
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


def replace_file(path: Path, data: bytes) -> None:
    """Writes `data` as `path`, in place of what was there: a reader finds the old bytes or the new ones."""
    _erase_parts(path)
    aside = path.with_name(f".{path.name[:100]}.{os.getpid()}.part")
    try:
        write_file(aside, data)
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    with visible_change(f"{path} has its new content, but a loss of power may still undo it"):
        sync_folder(path.parent)


def withdraw(path: Path, staging: Path) -> None:
    """Takes a published folder out of sight in one step, then erases it."""
    make_folder(staging.parent)
    if os.path.lexists(staging):
        erase(staging)  # what an earlier removal has left
    rename_new(path, staging)
    with visible_change(f"{path} is removed; what is left of its files lies in {staging}"):
        sync_folder(path.parent)
        erase(staging)


def erase(path: Path) -> None:
    """Unlinks a folder and everything in it (links are unlinked, never followed). No secure erase."""
    shutil.rmtree(path)
    sync_folder(path.parent)


def _erase_parts(path: Path) -> None:
    """Unlinks what killed processes have left of a `replace_file` of this path."""
    prefix = f".{path.name[:100]}."
    for each in path.parent.iterdir():
        number = each.name.removeprefix(prefix).removesuffix(".part")
        if each.name == f"{prefix}{number}.part" and number.isdecimal() and not is_running(int(number)):
            each.unlink(missing_ok=True)


def is_running(number: int) -> bool:
    """Whether another process of this number is there; this process itself has no part yet."""
    if number == os.getpid():
        return False
    if os.name == "nt":
        return True  # there, asking with `os.kill` would end the process
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]  # a short write is legal
    os.fsync(descriptor)


def _publish_nameless(data: bytes, target: Path) -> Path | None:
    """`publish_file` by way of a file without a name; None where the system or the file system has none."""
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
        path = next(each for each in _numbered(target) if _linked(descriptor, each))
    finally:
        os.close(descriptor)
    sync_folder(path.parent)
    return path


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    number = 2
    while True:
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1


def _renamed(source: Path, target: Path) -> bool:
    """Whether `target` was free, and is now what `source` was."""
    try:
        rename_new(source, target)
    except FileExistsError:
        return False
    return True


def _linked(descriptor: int, target: Path) -> bool:
    """Whether `target` was free, and is now the open file."""
    try:
        # Any src_dir_fd has Python call linkat, which can follow the link that /proc shows of an open file.
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
