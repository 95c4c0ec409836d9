"""The Unix socket through which this user's commands reach the server of their library. Nobody else can open it."""

import contextlib
import hashlib
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pmagic import atomic_io, settings
from pmagic.errors import Busy, UsageError

_MAX_PATH = 100  # bytes; the system's own limit is 104 to 108
_PRIVATE = 0o177  # the umask that makes a socket of mode 0600


def path() -> Path:
    """One socket for each library: a server of another library is never asked."""
    library = os.fsencode(settings.library_dir().absolute())
    return settings.runtime_dir() / f"serve-{hashlib.sha256(library).hexdigest()[:16]}.sock"


def is_private(folder: Path) -> bool:
    """Whether the folder is this user's own and nobody else can put anything into it or replace it."""
    try:
        own, above = folder.lstat(), folder.parent.lstat()
    except OSError:
        return False
    replaceable = above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX
    return (
        stat.S_ISDIR(own.st_mode)
        and own.st_uid == os.getuid()
        and not own.st_mode & 0o077
        and above.st_uid in (0, os.getuid())
        and not replaceable
    )


@contextmanager
def listening() -> Iterator[socket.socket]:
    """A listening socket of mode 0600, removed at the end. It replaces the one that a killed server has left.

    Raises Busy where a server of this library runs, UsageError for a folder that others can change, StorageFailed.
    """
    import filelock

    place = path()
    if len(os.fsencode(place)) > _MAX_PATH:
        raise UsageError(
            f"the path {place} is too long for a socket", "set XDG_RUNTIME_DIR to a folder with a shorter one"
        )
    with atomic_io.storing(f"the socket {place}"):
        atomic_io.make_folder(place.parent)
    if not is_private(place.parent):
        raise UsageError(
            f"others than you can change the folder {place.parent}",
            "remove it, or set XDG_RUNTIME_DIR to one of your own",
        )
    lock = filelock.FileLock(place.with_suffix(".lock"), timeout=0, mode=atomic_io.FILE_MODE)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise Busy("a server of this library is running already", "use that one, or stop it first") from error
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with listener, atomic_io.storing(f"the socket {place}"):
            place.unlink(missing_ok=True)
            before = os.umask(_PRIVATE)
            try:
                listener.bind(str(place))
            finally:
                os.umask(before)
            listener.listen()
            try:
                yield listener
            finally:
                with contextlib.suppress(OSError):
                    place.unlink()
    finally:
        lock.release()
