"""One persona as one file, `alice.pmagic`: its bundle in a plain zip. The same persona gives the same bytes.

An archive from a stranger is only data: it must hold exactly the expected members, each within its byte limit.
Nothing is unpacked to disk, and every SHA-256 is compared before a value is used.
"""

import io
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from pmagic.atomic_io import Buffer
from pmagic.errors import BundleDamaged, NotFound, UsageError
from pmagic.library import bundle

SUFFIX = ".pmagic"
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can hold
_MODE = 0o100600 << 16
_MAX_LIST = 4096  # bytes of the list of members; three take less than 300
_MAX_BYTES = sum(bundle.MAX_BYTES.values()) + 1024**2


def pack(files: Mapping[str, Buffer]) -> list[Buffer]:
    """A bundle's files (see bundle.pack) as an archive, in pieces, so that a large file is not held twice."""
    pieces = _Pieces()
    with zipfile.ZipFile(cast(BinaryIO, pieces), "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            member = zipfile.ZipInfo(name, _DATE)
            member.external_attr = _MODE
            member.create_system = 3  # otherwise the bytes would depend on the operating system
            member.file_size = len(files[name])
            with archive.open(member, "w") as part:
                part.write(files[name])
    return pieces.written


class _Pieces(io.RawIOBase):
    """A file for writing that keeps each piece as it is. zipfile writes the head of a member twice, the same length."""

    def __init__(self) -> None:
        self.written: list[Buffer] = []
        self._starts: list[int] = []
        self._end: int = 0
        self._position: int = 0

    def write(self, data: Any, /) -> int:
        if self._position == self._end:
            self._starts.append(self._end)
            self.written.append(data)
            self._end += len(data)
        else:
            number = self._starts.index(self._position)
            assert len(self.written[number]) == len(data)
            self.written[number] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        assert whence == os.SEEK_SET
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def unpack(path: Path) -> dict[str, Buffer]:
    """The bundle's files in an archive, none of them trusted yet (see bundle.unpack).

    Raises NotFound, UsageError for a file that is not an archive, BundleDamaged for one that `pack` would not write.
    """
    if not path.is_file():
        raise NotFound(f"there is no file {path}", "check the path of the archive")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > _MAX_BYTES:
                raise _hostile(path, f"it is larger than {_MAX_BYTES} bytes")
            _require_short_list(path, file, size)
            with zipfile.ZipFile(file) as archive:
                return _members(path, archive, size)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "check its permissions") from error
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError, OverflowError) as error:
        raise UsageError(f"{path} is not a persona's archive: {error}", "give a file that pmagic exported") from error


def _require_short_list(path: Path, file: BinaryIO, size: int) -> None:
    """Refuses a long list of members before zipfile makes an object of each, which would take seconds and gigabytes."""
    if not zipfile.is_zipfile(file):
        raise zipfile.BadZipFile("it is not a zip file")
    file.seek(max(size - 42, 0))
    tail = file.read()
    end = tail[-22:]
    if len(end) < 22 or end[:4] != b"PK\5\6" or tail[-42:-38] == b"PK\6\7":
        raise _hostile(path, "it has a comment, or is a 64-bit zip")
    members, listed = struct.unpack("<HI", end[10:16])
    if members > len(bundle.MAX_BYTES) or listed > _MAX_LIST:
        raise _hostile(path, f"it lists {members} members in {listed} bytes")


def _members(path: Path, archive: zipfile.ZipFile, size: int) -> dict[str, Buffer]:
    from pmagic.library import tensors

    members = archive.infolist()
    names = [member.filename for member in members]
    if len(set(names)) != len(names) or not {bundle.TOML, bundle.TENSORS} <= set(names) <= set(bundle.MAX_BYTES):
        shown = ", ".join(sorted(names)[:5])
        raise _hostile(path, f"it holds {shown or 'nothing'}")
    contents: dict[str, Buffer] = {}
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > bundle.MAX_BYTES[member.filename]:
            raise _hostile(path, f"its {member.filename} is compressed or too large")
        if member.file_size > size:
            raise _hostile(path, f"its {member.filename} is larger than the archive")
        data = bytearray(member.file_size)
        with archive.open(member) as part:
            del data[tensors.fill(cast(zipfile.ZipExtFile, part), data) :]
        contents[member.filename] = data
    return contents


def _hostile(path: Path, why: str) -> BundleDamaged:
    return BundleDamaged(f"{path} is not an archive as pmagic writes it: {why}", "ask for the archive again")
