"""The settings and the subjects of an evaluation, as plain values: any process can open the same EvalContext."""

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pmagic.datasets import Individual

if TYPE_CHECKING:
    from PIL import Image

FACE = "face"  # the super-category of all subjects


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """All settings that determine the results, besides the subjects. device and dtype: as in bases.loading.load."""

    base: str
    dataset: str
    methods: tuple[str, ...]  # names on the methods shelf
    recipes: tuple[str, ...]
    ablation: str  # "" for none
    prompts: tuple[str, ...]
    iterations: int | None  # of learning; None for the recipe's default
    photos: str  # which kind of the data set's photos is learned from; "" if it has one kind
    pictures: int  # per prompt; picture k has seed + k, the same for all subjects
    seed: int
    device: str
    dtype: str


@dataclass(frozen=True, kw_only=True)
class EvalSubject:
    """One person of the sample. photos and unseen stay empty until `load_photos` reads them: a sample may be large."""

    number: int  # from 1, over all repeats
    name: str
    source: Individual
    hashes: tuple[str, ...]  # SHA-256 of all photos, those learned from first
    files: tuple[str, ...]  # the names of these photos' files
    learned: int  # the number of photos learned from
    photos: "tuple[Image.Image, ...]" = ()  # learned from
    unseen: "tuple[Image.Image, ...]" = ()  # not learned from
    mask: "Image.Image | None" = None

    @property
    def place(self) -> str:
        """The subject's folder in the store. Its name depends on the photos, so other photos give another folder."""
        told = " ".join((str(self.learned), *self.hashes))
        return f"{self.number:04d}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"

    def load_photos(self) -> "EvalSubject":
        """The subject with its photos in memory, ready to be sent to another machine. Raises as `eval_subject`."""
        return replace(
            self,
            source=Individual(name=self.source.name, learned=()),
            photos=tuple(read().image for read in self.source.learned),
            unseen=tuple(read().image for read in self.source.unseen),
            mask=None if self.source.mask is None else self.source.mask(),
        )


def eval_subject(number: int, who: Individual) -> EvalSubject:
    """Read (or draw) the person's photos once, for their hashes. Raises PhotoRefused or NotFound."""
    read = [(photo.sha256, _text(photo.path.name)) for photo in (each() for each in (*who.learned, *who.unseen))]
    hashes, files = zip(*read, strict=True)
    return EvalSubject(
        number=number, name=_text(who.name), source=who, hashes=hashes, files=files, learned=len(who.learned)
    )


def _text(name: str) -> str:
    """The name as valid text; a file's name can contain bytes that are not."""
    return name.encode(errors="backslashreplace").decode()
