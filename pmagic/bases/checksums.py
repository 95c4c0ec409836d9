"""SHA-256 of weights: a file SHA256SUMS in each folder, which `sha256sum -c` reads as well, and known sums of archives.

    python -m pmagic.bases.checksums FOLDER...        (writes one into each, as after a training of the miniature)

The miniature ships with them, and a pull leaves one of all that it has published. A sum finds damage and changes by
accident; whoever can write the weights can write the sums, too.
"""

import hashlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from pmagic import atomic_io

FILE = "SHA256SUMS"
# Of the archives of insightface's packs, which states none: as many projects have published them independently.
PACKS = {
    "buffalo_l": "80ffe37d8a5940d59a7384c201a2a38d4741f2f3c51eef46ebb28218a7b0ca2f",
    "antelopev2": "8e182f14fc6e80b3bfa375b33eb6cff7ee05d8ef7633e738d1c89021dcf0c5c5",
}
_MAX_BYTES = 1024**2
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(folder: Path, known: Mapping[str, str] | None = None) -> Path:
    """SHA256SUMS of all files in `folder`, in place of an older one. known: sums by name that were compared already."""
    known = known or {}
    lines = [f"{known.get(name) or sha256(path)}  {name}\n" for name, path in sorted(_files(folder).items())]
    atomic_io.replace_file(folder / FILE, "".join(lines).encode())
    return folder / FILE


def faults(folder: Path) -> list[tuple[str, str]] | None:
    """(file, what is wrong with it) for each file that is not as SHA256SUMS states; None where there is no such file.

    Raises OSError where something cannot be read.
    """
    stated = _stated(folder / FILE)
    if not stated:
        return None if stated is None else [(FILE, "it holds no sums")]
    there = _files(folder)
    found = [(name, "it is missing") for name in sorted(stated.keys() - there.keys())]
    found += [(name, f"it is not in {FILE}") for name in sorted(there.keys() - stated.keys())]
    for name in sorted(stated.keys() & there.keys()):
        if not there[name].is_file():
            found.append((name, "it is no file"))
        elif sha256(there[name]) != stated[name]:
            found.append((name, "its SHA-256 does not agree: it was changed or cut"))
    return found


def _stated(path: Path) -> dict[str, str] | None:
    """The sums by name; empty where a line is none, None without the file."""
    try:
        with path.open("rb") as file:
            lines = file.read(_MAX_BYTES).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return None
    found = [each for line in lines if (each := _LINE.fullmatch(line)) is not None]
    return {each[2]: each[1] for each in found} if len(found) == len(lines) else {}


def _files(folder: Path) -> dict[str, Path]:
    """Every file in the folder by its relative name, but for the sums themselves."""
    paths = (path for path in folder.rglob("*") if not path.is_dir())
    named = {path.relative_to(folder).as_posix(): path for path in paths}
    named.pop(FILE, None)
    return named


if __name__ == "__main__":
    for each in sys.argv[1:]:
        print(write(Path(each)))
