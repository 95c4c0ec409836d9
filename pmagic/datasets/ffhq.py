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
    """Photos in folders of a thousand, or all in one. Raises UsageError or NotFound for another layout."""
    root = datasets.require_folder(root, WANTED, WHERE)
    numbered = datasets.find_numbered_photos(root, _FOLDERS, _NUMBER)
    if not numbered.photos:
        raise datasets.wrong_layout(root, WANTED, WHERE)
    return [Individual(name=name, learned=(datasets.from_file(photo),)) for name, photo in numbered.photos.items()]


def left_out(root: Path | None) -> list[str]:
    root = datasets.require_folder(root, WANTED, WHERE)
    return datasets.find_numbered_photos(root, _FOLDERS, _NUMBER).left_out(root)
