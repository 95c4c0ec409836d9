"""Any folder: each photo in it is a person, and each folder in it is one person with several photos.

Of several photos the first is learned from, and the others are kept to compare with.
"""

from pathlib import Path

from pmagic import datasets
from pmagic.datasets import Individual
from pmagic.errors import UsageProblem

WANTED = "a folder of photos, one person each, or of folders with the photos of one person each"
WHERE = "put JPEG, PNG or WEBP photos there"
PROMPTS = None
fetches = datasets.fetches_nothing


def people(root: Path | None) -> list[Individual]:
    """Raises NotFound for a folder without photos, UsageProblem where two people have one name."""
    root = datasets.require_folder(root, WANTED, WHERE)
    places = {each: [each] for each in datasets.photos_of(root)}
    places |= {each: photos for each in datasets.folders_of(root) if (photos := datasets.photos_of(each))}
    if not places:
        raise datasets.wrong_layout(root, WANTED, WHERE)
    named: dict[str, Path] = {}
    for place in places:
        name = place.stem if place.is_file() else place.name
        if name in named:
            raise UsageProblem(
                f"{named[name]} and {place} are two people of the name {name!r}",
                "rename one of them, or put the photos of one person into one folder",
            )
        named[name] = place
    photos = {name: list(map(datasets.from_file, places[place])) for name, place in named.items()}
    return [Individual(name, (first,), tuple(others)) for name, (first, *others) in photos.items()]
