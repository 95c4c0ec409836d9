"""Any folder: each photo in it is a person, and each folder with photos below it is one person with several photos.

Of several photos, the first is learned from and the others are compared with. Folders of folders are searched. Folders
inside a person's own folder are left out, because they may show other people.
"""

from collections.abc import Iterator
from itertools import filterfalse
from pathlib import Path

from pmagic import datasets
from pmagic.datasets import Individual
from pmagic.errors import UsageError

WANTED = "a folder of photos, one person each, or of folders with the photos of one person each"
WHERE = "put JPEG, PNG or WEBP photos there"
PROMPTS = None
fetches = datasets.fetches_nothing


def people(root: Path | None) -> list[Individual]:
    """Raises NotFound for a folder without photos, UsageError where two people have one name."""
    root = datasets.require_folder(root, WANTED, WHERE)
    places = {each: [each] for each in datasets.photos_of(root)}
    places |= {each: photos for each in _groups(root) if (photos := datasets.photos_of(each))}
    if not places:
        raise datasets.wrong_layout(root, WANTED, WHERE)
    by_name: dict[str, Path] = {}
    for place in places:
        name = place.stem if place.is_file() else place.name
        if name in by_name:
            raise UsageError(
                f"{by_name[name]} and {place} are two people with the name {name!r}",
                "rename one of them, or put the photos of one person into one folder",
            )
        by_name[name] = place
    photos = {name: list(map(datasets.from_file, places[place])) for name, place in by_name.items()}
    return [Individual(name=name, learned=(first,), unseen=tuple(others)) for name, (first, *others) in photos.items()]


def left_out(root: Path | None) -> list[str]:
    """Files that are not photos, folders inside a person's folder, and folders without photos."""
    root = datasets.require_folder(root, WANTED, WHERE)
    groups = list(_groups(root))
    inner = [each for group in groups if datasets.photos_of(group) for each in datasets.folders_of(group)]
    empty = [each for each in groups if not datasets.photos_of(each) and not datasets.folders_of(each)]
    files = [each for folder in (root, *groups) for each in datasets.others_of(folder)]
    deep = [each for group in groups if _depth(root, group) == datasets.DEPTH and not datasets.photos_of(group)
            for each in datasets.folders_of(group)]  # fmt: skip
    return [
        *datasets.one_line("files whose ending is not that of a photo", filter(Path.is_file, files), root),
        *datasets.one_line("links to nothing, and what is no file", filterfalse(Path.is_file, files), root),
        *datasets.one_line("folders inside a person's folder", inner, root),
        *datasets.one_line("folders without a photo", empty, root),
        *datasets.one_line(f"folders more than {datasets.DEPTH} deep", deep, root),
    ]


def _groups(root: Path) -> Iterator[Path]:
    """The folders below `root` that do not lie inside a person's own folder."""
    people: list[Path] = []
    for folder in datasets.tree(root):
        if folder == root or any(folder.is_relative_to(each) for each in people):
            continue
        if datasets.photos_of(folder):
            people.append(folder)
        yield folder


def _depth(root: Path, folder: Path) -> int:
    return len(folder.relative_to(root).parts)
