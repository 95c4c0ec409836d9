"""What the person shows: photos, where the subject is in them, and what it is. Shared by the commands that learn."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pmagic.cli.console import Console
from pmagic.errors import NotFound, UsageProblem

if TYPE_CHECKING:
    from PIL import Image

    from pmagic.bases.card import Card
    from pmagic.bases.loading import Base
    from pmagic.engine.portraits import Portrait
    from pmagic.engine.recipes import LearnSettings
    from pmagic.engine.subject import Subject

FACE, STYLE = "face", "painting"  # the super-category words where none is given


@dataclass(frozen=True)
class Shown:
    """Photos that were read, and what they are said to show. kind: "face", "object" or "style"."""

    images: "list[Image.Image]"
    hashes: list[str]
    names: list[str]
    mask: "Image.Image | None"
    word: str
    kind: str

    def portraits(self, card: "Card", how: "LearnSettings", pick: int | None) -> "list[Portrait] | None":
        """The face of each photo, where the base has a face pack here; refuses what cannot be learned before any work.

        Raises PhotoRefused, UsageProblem, WeightsMissing.
        """
        from pmagic.engine import portraits, subject

        subject.require_observers(card, self.kind, masked=self.mask is not None, recognised=how.looks_at_faces)
        if self.kind != "face" or not isinstance(card.faces, Path):
            if pick is not None:
                why = "only faces are told apart" if self.kind != "face" else "no face pack is on this machine"
                raise UsageProblem(f"--face {pick} cannot be followed: {why}", "cut the photo to the subject instead")
            return None
        return portraits.portraits(card, self.images, self.names, pick=pick, alike=how.alike)

    def observed(self, base: "Base", known: "Sequence[Portrait] | None") -> "Subject":
        """As the base and its observers see it."""
        from pmagic.engine import subject

        return subject.observe(
            base, self.images, self.hashes, word=self.word, kind=self.kind, mask=self.mask, known=known
        )

    def squares(self, known: "Sequence[Portrait] | None") -> "list[Image.Image]":
        """The part of each photo that is learned from."""
        from pmagic.engine import subject

        faces = known or [None] * len(self.images)
        upright = [
            image if each is None else each.upright(image) for each, image in zip(faces, self.images, strict=True)
        ]
        return [image.crop(subject.frame(image.size, each)) for each, image in zip(faces, upright, strict=True)]

    def square(self, side: int, known: "Sequence[Portrait] | None") -> "Image.Image":
        """The square of the first photo that is learned from, `side` pixels high and at least 256."""
        from pmagic.engine import subject

        return subject.resized(self.squares(known)[0], max(side, 256))

    def inputs(self) -> dict[str, object]:
        """What identifies it: plain values."""
        mask = hashlib.sha256(self.mask.tobytes()).hexdigest() if self.mask else ""
        return {"word": self.word, "kind": self.kind, "photos": self.hashes, "mask": mask}


def shown(console: Console, paths: Sequence[Path], mask: Path | None, word: str | None, style: bool) -> Shown:
    """Reads the photos, of a folder all that lie in it; one that is there twice is told and counts once.

    Raises NotFound, PhotoRefused, UsageProblem.
    """
    from pmagic import pictures
    from pmagic.engine import prompts

    kind, word = ("style", word or STYLE) if style else _kind_of(word or FACE, prompts.FACE_WORDS)
    paths = [each for path in paths for each in _photos_at(path)]
    if mask is not None and style:
        raise UsageProblem("a style is the whole picture, so it has no --mask", "leave one of them out")
    if mask is not None and len(paths) > 1:
        raise UsageProblem("one --mask cannot serve several photos", "learn from one photo, or leave the mask out")
    photos = {}
    for path in paths:
        photo = pictures.read_photo(path)
        if photo.sha256 in photos:
            console.warn(f"{path} is the same file as {photos[photo.sha256].path}, and counts once")
        photos.setdefault(photo.sha256, photo)
    first = next(iter(photos.values()))
    return Shown(
        images=[each.image for each in photos.values()],
        hashes=list(photos),
        names=[str(each.path) for each in photos.values()],
        mask=None if mask is None else pictures.read_mask(mask, first.image.size),
        word=word,
        kind=kind,
    )


def warn_of_strange_photos(
    console: Console, base: "Base", shown: Shown, known: "Sequence[Portrait] | None" = None
) -> None:
    """Tells of faces that were found turned or with a margin, and asks a base that says what it knows of each photo."""
    for name, portrait in zip(shown.names, known or (), strict=False):
        if portrait.search:
            console.warn(f"the face in {name} was found {portrait.search}, and is learned so")
    if shown.kind == "object":
        warn_of_faces(console, base.card, shown)
    domain = base.card.domain
    if domain is None:
        return
    from pmagic.bases import card
    from pmagic.engine.familiarity import noise_error

    worst = max(noise_error(base, square, shown.word) for square in shown.squares(known))
    if worst > domain.error:
        console.warn(
            f"the base {base.name!r} knows {domain.what} only, and this is something else (of a little noise in it "
            f"{worst:.2f} is mistaken, {domain.error:g} at most in what it knows): do not expect a likeness. "
            f"Instead, {card.way_to_photographs()}"
        )


def warn_of_faces(console: Console, card: "Card", shown: Shown) -> None:
    """A word that is taken for an object leaves faces unseen: who shows one may have meant a person."""
    console.say(f"{shown.word!r} is taken for an object: no face is looked for")
    if not isinstance(card.faces, Path):
        return
    from pmagic.engine import portraits

    pack = portraits.opened(card)
    for name, image in zip(shown.names, shown.images, strict=True):
        if pack.find(image):
            console.warn(
                f"{name} shows a face, and {shown.word!r} is taken for an object, so the face is not looked at; for a "
                "person say --class face, woman, man, girl or boy"
            )


def _photos_at(path: Path) -> list[Path]:
    """The file itself, or the photos in a folder. Raises NotFound for a folder without any."""
    from pmagic import datasets

    if not path.is_dir():
        return [path]
    found = datasets.photos_of(path)
    if not found:
        raise NotFound(f"the folder {path} holds no photo", "give photos, or a folder with the photos of one person")
    return found


def _kind_of(word: str, face_words: Sequence[str]) -> tuple[str, str]:
    word = word.strip().lower()  # as the tokenizers of CLIP read it
    return ("face" if word in face_words else "object"), word
