"""The bytes of a persona's archive, which the program keeps in pieces."""

from collections.abc import Mapping

from pmagic.atomic_io import Buffer
from pmagic.library import archive
from pmagic.library.store import Library


def packed(files: Mapping[str, Buffer]) -> bytes:
    return b"".join(archive.pack(files))


def exported(library: Library, name: str) -> bytes:
    return b"".join(library.export(name)[1])
