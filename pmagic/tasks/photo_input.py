"""The photos of a learning or a probe: reading, checks, and encoding for the base and its vision models."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pmagic.errors import NotFound, UsageError
from pmagic.tasks.reporting import Reporter

if TYPE_CHECKING:
    from PIL import Image

    from pmagic.bases.loading import Base
    from pmagic.bases.model_spec import ModelSpec
    from pmagic.engine.face_selection import SelectedFace
    from pmagic.engine.prompts import Kind
    from pmagic.engine.recipes import LearnSettings
    from pmagic.engine.subject import Subject

FACE, STYLE = "face", "painting"  # the super-category words where none is given


@dataclass(frozen=True, kw_only=True)
class PhotoInput:
    """Photos that were read, and what they show. kind: "face", "object" or "style"."""

    images: "list[Image.Image]"
    hashes: list[str]
    names: list[str]
    mask: "Image.Image | None"
    word: str
    kind: "Kind"

    def select_faces(
        self, spec: "ModelSpec", settings: "LearnSettings", pick: int | None
    ) -> "list[SelectedFace] | None":
        """The face in each photo; None without a face pack. Refuses photos that cannot be learned, before any work.

        Raises PhotoRefused, UsageError, WeightsMissing.
        """
        from pmagic.engine import face_selection, subject

        subject.require_observers(spec, self.kind, masked=self.mask is not None, recognised=settings.looks_at_faces)
        if self.kind != "face" or not isinstance(spec.faces, Path):
            if pick is not None:
                why = "only faces can be chosen" if self.kind != "face" else "no face pack is on this machine"
                raise UsageError(f"--face {pick} cannot be used: {why}", "cut the photo to the subject instead")
            return None
        return face_selection.select_faces(spec, self.images, self.names, pick=pick, alike=settings.alike)

    def encode(self, base: "Base", faces: "Sequence[SelectedFace] | None") -> "Subject":
        """Latents, mask and embeddings of the photos, from the base and its vision models."""
        from pmagic.engine import subject

        return subject.encode_photos(
            base, self.images, self.hashes, word=self.word, kind=self.kind, mask=self.mask, known=faces
        )

    def squares(self, faces: "Sequence[SelectedFace] | None") -> "list[Image.Image]":
        """The part of each photo that is learned from."""
        from pmagic.engine import subject

        chosen = faces or [None] * len(self.images)
        upright = [
            image if each is None else each.turn_upright(image) for each, image in zip(chosen, self.images, strict=True)
        ]
        return [image.crop(subject.square_crop(image.size, each)) for each, image in zip(chosen, upright, strict=True)]

    def square(self, side: int, faces: "Sequence[SelectedFace] | None") -> "Image.Image":
        """The square of the first photo that is learned from, `side` pixels high and at least 256."""
        from pmagic.engine import subject

        return subject.resize(self.squares(faces)[0], max(side, 256))

    def inputs(self) -> dict[str, object]:
        """What identifies the photos, as plain values."""
        mask = hashlib.sha256(self.mask.tobytes()).hexdigest() if self.mask else ""
        return {"word": self.word, "kind": self.kind, "photos": self.hashes, "mask": mask}


def read(
    reporter: Reporter,
    given: "Sequence[Path | Image.Image]",
    mask: "Path | Image.Image | None",
    word: str | None,
    style: bool,
) -> PhotoInput:
    """Reads the photos; for a folder, all photos in it. A photo that is given twice counts once, with a warning.

    Raises NotFound, PhotoRefused, UsageError.
    """
    from pmagic import pictures
    from pmagic.engine import prompts

    if style and word is not None and word not in prompts.STYLE_WORDS:
        raise UsageError(
            f"--class {word} says what the pictures show, and --style learns how they are made",
            f"leave one of them out; with --style a --class is one of: {', '.join(prompts.STYLE_WORDS)}",
        )
    kind, word = ("style", word or STYLE) if style else _kind_of(word or FACE, prompts.FACE_WORDS)
    given = [photo for each in given for photo in _photos_at(each)]
    if mask is not None and style:
        raise UsageError("a style is the whole picture, so it has no --mask", "leave one of them out")
    if mask is not None and len(given) > 1:
        raise UsageError("one --mask cannot serve several photos", "learn from one photo, or leave the mask out")
    photos = {}
    for each in given:
        photo = pictures.read_photo(each) if isinstance(each, Path) else pictures.photo_of(each)
        if photo.sha256 in photos:
            reporter.warn(f"{photo.path} is the same file as {photos[photo.sha256].path}, and counts once")
        photos.setdefault(photo.sha256, photo)
    first = next(iter(photos.values()))
    return PhotoInput(
        images=[each.image for each in photos.values()],
        hashes=list(photos),
        names=[str(each.path) for each in photos.values()],
        mask=None if mask is None else pictures.read_mask(mask, first.image.size),
        word=word,
        kind=kind,
    )


def warn_of_strange_photos(
    reporter: Reporter, base: "Base", photos: PhotoInput, faces: "Sequence[SelectedFace] | None", pick: int | None
) -> None:
    """Warns about faces found turned, with a margin or in a group, and about photos that the base does not know.

    pick: the number of the face that the person asked for.
    """
    for name, portrait in zip(photos.names, faces or (), strict=False):
        if portrait.search:
            reporter.warn(f"the face in {name} was found {portrait.search}, and is learned that way")
        if portrait.others and pick is None and len(photos.names) > 1:
            reporter.warn(
                f"there are {len(portrait.others) + 1} faces in {name}: {portrait.place} is learned, as the face that "
                "is like those in the other photos; --face learns another"
            )
    if photos.kind == "object":
        warn_of_faces(reporter, base.spec, photos)
    domain = base.spec.domain
    if domain is None or photos.kind == "style":  # a style is meant to differ from what the base draws by itself
        return
    from pmagic.bases import model_spec
    from pmagic.engine.domain_check import denoising_error

    worst = max(denoising_error(base, square, photos.word) for square in photos.squares(faces))
    if worst > domain.error:
        reporter.warn(
            f"the base {base.name!r} knows {domain.what} only, and this is something else (its denoising error is "
            f"{worst:.2f}, and at most {domain.error:g} for what the base knows): do not expect a likeness. "
            f"Instead, {model_spec.way_to_photographs()}"
        )


def warn_of_faces(reporter: Reporter, spec: "ModelSpec", photos: PhotoInput) -> None:
    """Warns if a photo of an object shows a face: the user may have meant a person."""
    reporter.say(f"{photos.word!r} is treated as an object: pmagic looks for no face")
    if not isinstance(spec.faces, Path):
        return
    from pmagic.engine import face_selection

    pack = face_selection.open_pack(spec)
    for name, image in zip(photos.names, photos.images, strict=True):
        if pack.find(image):
            reporter.warn(
                f"{name} shows a face, but {photos.word!r} is treated as an object, so the face is ignored; for a "
                "person use --class face, woman, man, girl or boy"
            )


def _photos_at(path: "Path | Image.Image") -> "list[Path | Image.Image]":
    """The file or picture itself, or the photos in a folder. Raises NotFound for a folder without any."""
    from pmagic import datasets

    if not isinstance(path, Path) or not path.is_dir():
        return [path]
    found: list[Path | Image.Image] = [*datasets.photos_of(path)]
    if not found:
        raise NotFound(f"the folder {path} holds no photo", "give photos, or a folder with the photos of one person")
    return found


def _kind_of(word: str, face_words: Sequence[str]) -> "tuple[Kind, str]":
    word = word.strip().lower()  # as the tokenizers of CLIP read it
    return ("face" if word in face_words else "object"), word
