"""CelebA-HQ: 30,000 numbered photos; each counts as a person of its own."""

import re
from pathlib import Path

from pmagic import datasets
from pmagic.datasets import Individual

WANTED = "a folder of CelebA-HQ's numbered photos, 0.jpg to 29999.jpg (or one that holds CelebA-HQ-img/)"
WHERE = "get CelebA-HQ from its authors: https://github.com/tkarras/progressive_growing_of_gans, or CelebAMask-HQ"
PROMPTS = None
fetches = datasets.fetches_nothing
_FOLDERS = ("CelebA-HQ-img", "CelebAMask-HQ/CelebA-HQ-img", "data1024x1024", "images")
_NUMBER = re.compile(r"(img)?\d+")


def people(root: Path | None) -> list[Individual]:
    """Raises UsageError or NotFound for a folder of another layout."""
    root = datasets.require_folder(root, WANTED, WHERE)
    numbered = datasets.find_numbered_photos(root, _FOLDERS, _NUMBER)
    if not numbered.photos:
        raise datasets.wrong_layout(root, WANTED, WHERE)
    return [Individual(name=name, learned=(datasets.from_file(photo),)) for name, photo in numbered.photos.items()]


def left_out(root: Path | None) -> list[str]:
    root = datasets.require_folder(root, WANTED, WHERE)
    return datasets.find_numbered_photos(root, _FOLDERS, _NUMBER).left_out(root)
