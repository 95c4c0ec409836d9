"""An order: what is to be evaluated, in plain values, so that any process can open the same bench. And who sits."""

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pmagic.datasets import Individual

if TYPE_CHECKING:
    from PIL import Image

FACE = "face"  # the super-category of everyone who is evaluated


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Everything that decides the numbers besides the people. device and dtype: as bases.loading.load takes them."""

    base: str
    dataset: str
    methods: tuple[str, ...]  # names on the methods shelf
    recipes: tuple[str, ...]
    ablation: str  # "" for none
    prompts: tuple[str, ...]
    iterations: int | None  # of learning, None for the recipe's own
    photos: str  # which sort of the data set's photos is learned from, "" where there is one
    pictures: int  # of each prompt; picture k has seed + k, the same for all people
    seed: int
    device: str
    dtype: str


@dataclass(frozen=True, kw_only=True)
class EvalSubject:
    """One person of the sample. photos and unseen are empty until they are brought: a sample may be large."""

    number: int  # from 1, over all repeats
    name: str
    source: Individual
    hashes: tuple[str, ...]  # of all photos, those learned from first
    files: tuple[str, ...]  # their names
    learned: int  # how many of them are learned from
    photos: "tuple[Image.Image, ...]" = ()  # learned from
    unseen: "tuple[Image.Image, ...]" = ()
    mask: "Image.Image | None" = None

    @property
    def place(self) -> str:
        """The person's folder in the store; other photos are another person."""
        told = " ".join((str(self.learned), *self.hashes))
        return f"{self.number:04d}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"

    def brought(self) -> "EvalSubject":
        """With the photos in hand, ready to go to another machine. Raises as `sitter`."""
        return replace(
            self,
            source=Individual(name=self.source.name, learned=()),
            photos=tuple(read().image for read in self.source.learned),
            unseen=tuple(read().image for read in self.source.unseen),
            mask=None if self.source.mask is None else self.source.mask(),
        )


def eval_subject(number: int, who: Individual) -> EvalSubject:
    """Reads, or draws, the person's photos once, to know them by. Raises PhotoRefused or NotFound."""
    read = [(photo.sha256, _text(photo.path.name)) for photo in (each() for each in (*who.learned, *who.unseen))]
    hashes, files = zip(*read, strict=True)
    return EvalSubject(
        number=number, name=_text(who.name), source=who, hashes=hashes, files=files, learned=len(who.learned)
    )


def _text(name: str) -> str:
    """A file's name need not be valid text."""
    return name.encode(errors="backslashreplace").decode()
