"""One persona as one file, `alice.pmagic`: its bundle in a plain zip. The same persona gives the same bytes.

An archive from a stranger is only data: it must hold exactly the expected members, each within its byte limit.
Nothing is unpacked to disk, and every SHA-256 is compared before a value is used.
"""

import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

from pmagic.errors import BundleDamaged, NotFound, UsageError
from pmagic.library import bundle

SUFFIX = ".pmagic"
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can hold
_MODE = 0o100600 << 16
_MAX_LIST = 4096  # bytes of the list of members; three take less than 300
_MAX_BYTES = sum(bundle.MAX_BYTES.values()) + 1024**2


def pack(files: Mapping[str, bytes]) -> bytes:
    """A bundle's files (see bundle.pack) as an archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            member = zipfile.ZipInfo(name, _DATE)
            member.external_attr = _MODE
            member.create_system = 3  # otherwise the bytes would depend on the operating system
            archive.writestr(member, files[name])
    return buffer.getvalue()


def unpack(path: Path) -> dict[str, bytes]:
    """The bundle's files in an archive, none of them trusted yet (see bundle.unpack).

    Raises NotFound, UsageError for a file that is not an archive, BundleDamaged for one that `pack` would not write.
    """
    if not path.is_file():
        raise NotFound(f"there is no file {path}", "check the path of the archive")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise _hostile(path, f"it is larger than {_MAX_BYTES} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "check its permissions") from error
    try:
        _require_short_list(path, data)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _members(path, archive)
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError, OverflowError) as error:
        raise UsageError(f"{path} is not a persona's archive: {error}", "give a file that pmagic exported") from error


def _require_short_list(path: Path, data: bytes) -> None:
    """Refuses a long list of members before zipfile makes an object of each, which would take seconds and gigabytes."""
    end = data[-22:]
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise zipfile.BadZipFile("it is not a zip file")
    if len(end) < 22 or end[:4] != b"PK\5\6" or data[-42:-38] == b"PK\6\7":
        raise _hostile(path, "it has a comment, or is a 64-bit zip")
    members, size = struct.unpack("<HI", end[10:16])
    if members > len(bundle.MAX_BYTES) or size > _MAX_LIST:
        raise _hostile(path, f"it lists {members} members in {size} bytes")


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, bytes]:
    members = archive.infolist()
    names = [member.filename for member in members]
    if len(set(names)) != len(names) or not {bundle.TOML, bundle.TENSORS} <= set(names) <= set(bundle.MAX_BYTES):
        shown = ", ".join(sorted(names)[:5])
        raise _hostile(path, f"it holds {shown or 'nothing'}")
    contents: dict[str, bytes] = {}
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > bundle.MAX_BYTES[member.filename]:
            raise _hostile(path, f"its {member.filename} is compressed or too large")
        contents[member.filename] = archive.read(member)
    return contents


def _hostile(path: Path, why: str) -> BundleDamaged:
    return BundleDamaged(f"{path} is not an archive as pmagic writes it: {why}", "ask for the archive again")
