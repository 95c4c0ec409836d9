"""Data sets, one file each: people, and photos of them as they lie on disk. The contract of a file on this shelf:

WANTED: str                               what --root must be
WHERE: str                                where to get it
fetches() -> str                          what would be downloaded without --root, "" for nothing; WeightsMissing
                                          where the download is not possible
PROMPTS: tuple[str, ...] | None           what to draw of these people; None: the paper's prompts
people(root: Path | None) -> list[Individual]   all of them, in an order that depends on the data alone
left_out(root: Path | None) -> list[str]  the files and folders there that are not used, in words, for a message

A data set that draws its people itself, and has several kinds of photos, also has

PHOTOS: tuple[str, ...]                   kinds of photos, the usual one first; `people` then takes one as `photos`
panel(photos: str) -> list[Individual]    people outside every sample, with `drawings`, to compare a likeness with
"""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pmagic import decoding, pictures, shelf
from pmagic.errors import NotFound, UsageError
from pmagic.pictures import Photo

if TYPE_CHECKING:
    from PIL import Image

DEPTH = 4  # levels of folders below --root that are searched
_SHOWN = 6  # entries that a message lists
# Folders that systems and archives make by themselves; what lies there are thumbnails, leftovers and removed files.
_SYSTEM = ("@eadir", "$recycle.bin", "#recycle", "system volume information", "__macosx", "lost+found", "lost.dir")
_SYSTEM_FILES = ("Thumbs.db", "desktop.ini")
_PACKED = (".zip", ".tgz", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
_NUMBERS = re.compile(r"(\d+)")

Source = Callable[[], Photo]  # reads or draws a photo when it is called


@dataclass(frozen=True, kw_only=True)
class Individual:
    """One person of a data set. unseen: photos that are not learned from, to compare with."""

    name: str
    learned: tuple[Source, ...]
    unseen: tuple[Source, ...] = ()
    mask: "Callable[[], Image.Image] | None" = None  # of the only learned photo, where the data set knows it
    traits: str = ""  # a description of the person, in words
    # by prompt, where the data set draws the person itself
    drawings: Mapping[str, Source] = field(default_factory=dict)


def sample_people(people: Sequence[Individual], count: int, repeats: int, seed: int) -> list[list[Individual]]:
    """`repeats` random samples of `count` people each, nobody twice; the same for the same seed.

    Raises UsageError where there are not that many people.
    """
    import numpy as np

    if count * repeats > len(people):
        raise UsageError(
            f"{repeats} x {count} different people are needed, and the data set has {len(people)}",
            f"draw fewer: --people {max(1, len(people) // repeats)}" + (f" --repeats {repeats}" if repeats > 1 else ""),
        )
    order = np.random.default_rng(seed).permutation(len(people))
    return [[people[k] for k in order[first * count : (first + 1) * count]] for first in range(repeats)]


def list_photo_kinds(name: str) -> tuple[str, ...]:
    """The kinds of photos to choose from, the usual one first; () for a data set with one kind."""
    return getattr(shelf.take("datasets", name), "PHOTOS", ())


def panel(name: str, photos: str) -> list[Individual]:
    """People outside every sample whom the data set draws itself; [] where it draws nobody."""
    source = shelf.take("datasets", name)
    return source.panel(photos) if hasattr(source, "panel") else []


def fetches_nothing() -> str:
    """For a data set that downloads nothing."""
    return ""


def photos_of(folder: Path) -> list[Path]:
    """The photos directly in a folder, in the order of the numbers in their names."""
    return sorted((each for each in _entries(folder) if _is_photo(each)), key=_natural)


def folders_of(folder: Path) -> list[Path]:
    """The folders directly in a folder, without hidden ones and those of the system."""
    return sorted(
        each
        for each in _entries(folder)
        if not each.name.startswith(".") and each.name.lower() not in _SYSTEM and each.is_dir()
    )


def others_of(folder: Path) -> list[Path]:
    """The files directly in a folder that are neither photos nor hidden."""
    return sorted(
        each
        for each in _entries(folder)
        if not each.name.startswith(".")
        and not each.is_dir()
        and not _is_photo(each)
        and each.name not in _SYSTEM_FILES
    )


def tree(root: Path) -> Iterator[Path]:
    """The folder and all folders in it, DEPTH levels deep, parents first; each once, even if links lead to it again."""
    seen: set[Path] = set()
    level = [root]
    for _ in range(DEPTH + 1):
        fresh = []
        for folder in level:
            real = folder.resolve()
            if real not in seen:
                seen.add(real)
                fresh.append(folder)
        yield from fresh
        level = [each for folder in fresh for each in folders_of(folder)]


@dataclass(frozen=True)
class NumberedPhotos:
    """Photos by number, which is the person's name; then photos without a number, or with one that is taken."""

    photos: Mapping[str, Path]
    unnumbered: Sequence[Path]
    twice: Sequence[Path]

    def left_out(self, root: Path) -> list[str]:
        return [
            *one_line("photos whose name is not a number", self.unnumbered, root),
            *one_line("photos whose number is taken", self.twice, root),
        ]


def find_numbered_photos(root: Path, usual: Sequence[str], number: re.Pattern[str]) -> NumberedPhotos:
    """The numbered photos of the first of the `usual` folders in `root` that has any, or of all of `root`.

    Folders in them are searched, too, as in train/male. number: must match the whole name without its ending.
    """
    for folder in (*(root / each for each in usual if (root / each).is_dir()), root):
        photos: dict[str, Path] = {}
        unnumbered: list[Path] = []
        twice: list[Path] = []
        for photo in (photo for each in tree(folder) for photo in photos_of(each)):
            if not number.fullmatch(photo.stem):
                unnumbered.append(photo)
            elif photos.setdefault(photo.stem, photo) != photo:
                twice.append(photo)
        if photos:
            return NumberedPhotos(dict(sorted(photos.items(), key=lambda item: _natural(item[1]))), unnumbered, twice)
    return NumberedPhotos({}, (), ())


def nothing_left_out(root: Path | None) -> list[str]:
    """For a data set that uses every photo."""
    return []


def one_line(what: str, found: Iterable[Path], root: Path) -> list[str]:
    """`files that are no photos: a.txt, b/c.pdf and 3 more`; nothing where there are none."""
    paths = list(found)
    if not paths:
        return []
    shown = ", ".join(str(each.relative_to(root)) for each in paths[:_SHOWN])
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return [f"{what}: {shown}{more}"]


def from_file(path: Path) -> Source:
    return partial(pictures.read_photo, path)


def require_folder(root: Path | None, wanted: str, where: str) -> Path:
    """The folder; UsageError without --root, NotFound where it does not exist or is an archive."""
    if root is None:
        raise UsageError(f"this data set needs --root, {wanted}", where)
    if root.is_file() and root.name.lower().endswith(_PACKED):
        raise NotFound(f"{root} is still packed", f"unpack it, {_unpack_hint(root)}, and give --root {wanted}")
    if not root.is_dir():
        raise NotFound(f"there is no folder {root}", f"give --root {wanted}")
    return root


def wrong_layout(root: Path, wanted: str, where: str) -> NotFound:
    """The error for a folder of another layout: what it must be, and what it holds."""
    entries = _entries(root)
    inside = sorted(each.name + "/" * each.is_dir() for each in entries)
    more = f" and {len(inside) - _SHOWN} more" if len(inside) > _SHOWN else ""
    contents = ", ".join(inside[:_SHOWN]) + more if inside else "nothing"
    packed = sorted(each for each in entries if each.name.lower().endswith(_PACKED))
    advice = f"unpack {packed[0].name}, {_unpack_hint(packed[0])}, and give the folder" if packed else where
    return NotFound(f"{root} must be {wanted}; found there: {contents}", advice)


def _unpack_hint(path: Path) -> str:
    tar = any(end in path.name.lower() for end in (".tar", ".tgz"))
    command = ["tar", "-xf"] if tar else ["python", "-m", "zipfile", "-e"]
    if not tar and path.suffix.lower() != ".zip":
        return "with the program that packed it"
    folder = ["-C", str(path.parent)] if tar else [str(path.parent)]
    return f"for example with `{shlex.join([*command, str(path), *folder])}`"


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise UsageError(
            f"the folder {folder} cannot be read: {error.strerror}", "check its permissions, or take it out of --root"
        ) from error


def _is_photo(path: Path) -> bool:
    """By the name's ending; without one, by the first bytes of the file."""
    if path.name.startswith("."):
        return False
    suffix = path.suffix.lower()
    return path.is_file() and (decoding.looks_like_photo(path) if not suffix else suffix in decoding.PHOTO_ENDINGS)


def _natural(path: Path) -> list[tuple[int, str]]:
    """A sort key that puts `2.jpg` before `10.jpg`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _NUMBERS.split(path.name)]
