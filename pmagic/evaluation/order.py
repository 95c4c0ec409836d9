"""An order: what is to be evaluated, in plain values, so that any process can open the same bench. And who sits."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pmagic.datasets import Individual
from pmagic.pictures import Photo

if TYPE_CHECKING:
    from PIL import Image

FACE = "face"  # the super-category of everyone who is evaluated


@dataclass(frozen=True)
class Order:
    """Everything that decides the numbers besides the people. device and dtype: as bases.loading.load takes them."""

    base: str
    dataset: str
    recipes: tuple[str, ...]
    ablation: str  # "" for none
    prompts: tuple[str, ...]
    pictures: int  # of each prompt; picture k has seed + k, the same for all people
    seed: int
    device: str
    dtype: str


@dataclass(frozen=True)
class Sitter:
    """One person of the sample with the photos in hand, ready to go to another process."""

    number: int  # from 1, over all repeats
    name: str
    photos: "tuple[Image.Image, ...]"  # learned from
    hashes: tuple[str, ...]  # of all photos, learned from or not
    unseen: "tuple[Image.Image, ...]"
    mask: "Image.Image | None"

    @property
    def place(self) -> str:
        """The person's folder in the store; other photos are another person."""
        digest = hashlib.sha256(" ".join((str(len(self.photos)), *self.hashes)).encode()).hexdigest()
        return f"{self.number:04d}-{digest[:8]}"


def sitter(number: int, who: Individual) -> Sitter:
    """Reads, or draws, the person's photos. Raises PhotoRefused or NotFound."""
    learned, unseen = _read(who.learned), _read(who.unseen)
    return Sitter(
        number=number,
        name=who.name.encode(errors="backslashreplace").decode(),  # a file's name need not be valid text
        photos=tuple(each.image for each in learned),
        hashes=tuple(each.sha256 for each in (*learned, *unseen)),
        unseen=tuple(each.image for each in unseen),
        mask=None if who.mask is None else who.mask(),
    )


def _read(sources: Sequence) -> list[Photo]:
    return [read() for read in sources]
