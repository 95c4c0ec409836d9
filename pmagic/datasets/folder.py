"""Any folder: each photo in it is a person, and each folder in it is one person with several photos.

Of several photos the first is learned from, and the others are kept to compare with.
"""

from pathlib import Path

from pmagic import datasets
from pmagic.datasets import Individual

WANTED = "a folder of photos, one person each, or of folders with the photos of one person each"
WHERE = "put JPEG, PNG or WEBP photos there"
FETCHES = ""
PROMPTS = None


def people(root: Path | None) -> list[Individual]:
    """Raises UsageProblem or NotFound for a folder without photos."""
    root = datasets.require_folder(root, WANTED, WHERE)
    found = [Individual(each.stem, (datasets.from_file(each),)) for each in datasets.photos_of(root)]
    for folder in datasets.folders_of(root):
        photos = [datasets.from_file(each) for each in datasets.photos_of(folder)]
        if photos:
            found.append(Individual(folder.name, (photos[0],), tuple(photos[1:])))
    if not found:
        raise datasets.wrong_layout(root, WANTED, WHERE)
    return found
