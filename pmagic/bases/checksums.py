"""SHA-256 of weights: a file SHA256SUMS in each folder, which `sha256sum -c` can check, and known sums of archives.

    python -m pmagic.bases.checksums FOLDER...        (writes the file into each, as after training the miniature)

The miniature ships with these files, and a pull writes one for each folder. Sums find damage and accidental changes,
not attacks: whoever can write the weights can write the sums, too.
"""

import hashlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from pmagic import atomic_io

FILE = "SHA256SUMS"
# Archives of insightface's packs. insightface states no sums; these are the ones that other projects publish.
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
    """Writes SHA256SUMS for all files in `folder`, in place of an older one. known: sums by name, if known already."""
    known = known or {}
    lines = [f"{known.get(name) or sha256(path)}  {name}\n" for name, path in sorted(_files(folder).items())]
    atomic_io.replace_file(folder / FILE, "".join(lines).encode())
    return folder / FILE


def faults(folder: Path) -> list[tuple[str, str]] | None:
    """(file, what is wrong with it) for each file that differs from SHA256SUMS; None without a SHA256SUMS.

    Raises OSError where something cannot be read.
    """
    sums = _read_sums(folder / FILE)
    if not sums:
        return None if sums is None else [(FILE, "it holds no sums")]
    files = _files(folder)
    wrong = [(name, "it is missing") for name in sorted(sums.keys() - files.keys())]
    wrong += [(name, f"it is not in {FILE}") for name in sorted(files.keys() - sums.keys())]
    for name in sorted(sums.keys() & files.keys()):
        if not files[name].is_file():
            wrong.append((name, "it is not a file"))
        elif sha256(files[name]) != sums[name]:
            wrong.append((name, "its SHA-256 does not agree: it was changed or cut"))
    return wrong


def _read_sums(path: Path) -> dict[str, str] | None:
    """The sums by name; empty where a line is not a sum, None without the file."""
    try:
        with path.open("rb") as file:
            lines = file.read(_MAX_BYTES).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return None
    found = [each for line in lines if (each := _LINE.fullmatch(line)) is not None]
    return {each[2]: each[1] for each in found} if len(found) == len(lines) else {}


def _files(folder: Path) -> dict[str, Path]:
    """Every file in the folder by its relative name, without SHA256SUMS."""
    paths = (path for path in folder.rglob("*") if not path.is_dir())
    files = {path.relative_to(folder).as_posix(): path for path in paths}
    files.pop(FILE, None)
    return files


if __name__ == "__main__":
    for each in sys.argv[1:]:
        print(write(Path(each)))
