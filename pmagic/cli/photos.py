"""What the person shows: photos, where the subject is in them, and what it is. Shared by the commands that learn."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pmagic.cli.console import Console
from pmagic.errors import UsageProblem

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

    def square(self, side: int, known: "Sequence[Portrait] | None") -> "Image.Image":
        """The square of the first photo that is learned from, `side` pixels high and at least 256."""
        from pmagic.engine import subject

        image = self.images[0]
        return subject.resized(image.crop(subject.frame(image.size, known[0] if known else None)), max(side, 256))

    def inputs(self) -> dict[str, object]:
        """What identifies it: plain values."""
        mask = hashlib.sha256(self.mask.tobytes()).hexdigest() if self.mask else ""
        return {"word": self.word, "kind": self.kind, "photos": self.hashes, "mask": mask}


def shown(console: Console, paths: Sequence[Path], mask: Path | None, word: str | None, style: bool) -> Shown:
    """Reads the photos; one that is there twice is told and counts once.

    Raises NotFound, PhotoRefused, UsageProblem.
    """
    from pmagic import pictures
    from pmagic.engine import prompts

    if style and word is not None and word not in prompts.STYLE_WORDS:
        raise UsageProblem(
            f"--class {word} says what the pictures show, and --style learns how they are made",
            f"leave one of them out; with --style a --class is one of: {', '.join(prompts.STYLE_WORDS)}",
        )
    kind, word = ("style", word or STYLE) if style else _kind_of(word or FACE, prompts.FACE_WORDS)
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


def warn_of_strange_photos(console: Console, base: "Base", shown: Shown) -> None:
    """A base that says what it knows is asked whether a photo is like that; if not, the person is told."""
    knows = base.card.defaults.get("knows")
    if not knows:
        return
    from pmagic.engine.familiarity import noise_error

    worst = max(noise_error(base, photo, shown.word) for photo in shown.images)
    if worst > knows["error"]:
        console.warn(
            f"the base {base.name!r} knows {knows['what']} only, and this is something else (of a little noise in it "
            f"{worst:.2f} is mistaken, {knows['error']:g} at most in what it knows): do not expect a likeness. "
            "For photographs use --base sd14"
        )


def _kind_of(word: str, face_words: Sequence[str]) -> tuple[str, str]:
    return ("face" if word in face_words else "object"), word
