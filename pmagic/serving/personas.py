"""Personas that stay in memory between drawings, by version: reading one and checking its hashes takes time."""

import threading
from collections import OrderedDict
from pathlib import Path

from pmagic.library import naming
from pmagic.library.naming import Address
from pmagic.library.store import Library
from pmagic.persona import Persona

MAX_BYTES = 512 * 1024**2  # of all arrays together; one persona may be larger and is then not kept
_Stamp = tuple[int, int]


class PersonaCache:
    """Reads personas of a library once. A version that was removed, or learned again under its number, is read anew."""

    def __init__(self, root: Path) -> None:
        self._library = Library(root)
        self._kept: OrderedDict[Address, tuple[_Stamp, Persona]] = OrderedDict()  # the last used one last
        self._lock = threading.Lock()

    def find(self, text: str) -> Address:
        """`alice` -> its newest version, `alice@1` -> that one. Raises UsageError, NotFound."""
        return self._library.find(text)

    def load(self, address: Address) -> Persona:
        """Raises NotFound, BundleDamaged, Incompatible."""
        folder = naming.folder_of(self._library.root, address)
        stamp = _stamp(folder)
        with self._lock:
            kept = self._kept.pop(address, None)
            if kept is not None and kept[0] == stamp:
                self._kept[address] = kept
                return kept[1]
        persona = self._library.load(str(address))[1]
        if stamp is not None and stamp == _stamp(folder):
            with self._lock:
                self._kept[address] = (stamp, persona)
                while sum(_size(each) for _, each in self._kept.values()) > MAX_BYTES:
                    self._kept.popitem(last=False)
        return persona


def _stamp(folder: Path) -> _Stamp | None:
    """What tells one published version from another one at its place; None without a folder."""
    try:
        about = folder.stat()
    except OSError:
        return None
    return about.st_ino, about.st_ctime_ns


def _size(persona: Persona) -> int:
    return sum(each.nbytes for each in persona.tensors.values())
