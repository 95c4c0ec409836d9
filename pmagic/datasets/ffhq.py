"""Flickr-Faces-HQ: 70,000 photos in folders of a thousand; each counts as a person of its own."""

import re
from pathlib import Path

from pmagic import datasets
from pmagic.datasets import Individual

WANTED = "a folder that holds images1024x1024/00000/00000.png and so on (or is images1024x1024 itself)"
WHERE = "get FFHQ from its authors: https://github.com/NVlabs/ffhq-dataset"
PROMPTS = None
fetches = datasets.fetches_nothing
_FOLDERS = ("images1024x1024", "thumbnails128x128")
_NUMBER = re.compile(r"\d{5}")


def people(root: Path | None) -> list[Individual]:
    """Raises UsageProblem or NotFound for a folder of another layout."""
    root = datasets.require_folder(root, WANTED, WHERE)
    for folder in (root, *(root / each for each in _FOLDERS)):
        thousands = [each for each in _inside(folder) if _NUMBER.fullmatch(each.name)]
        photos = [photo for each in thousands for photo in datasets.photos_of(each) if _NUMBER.fullmatch(photo.stem)]
        if photos:
            return [Individual(each.stem, (datasets.from_file(each),)) for each in photos]
    raise datasets.wrong_layout(root, WANTED, WHERE)


def _inside(folder: Path) -> list[Path]:
    return datasets.folders_of(folder) if folder.is_dir() else []
