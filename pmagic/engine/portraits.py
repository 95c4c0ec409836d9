"""Portraits: whose face a photo shows, before anything is learned from it. A photo that will not do is refused here."""

# P photos . E embedding width

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from pmagic.bases.card import Card
from pmagic.errors import PhotoRefused, UsageProblem, WeightsMissing
from pmagic.vision import faces
from pmagic.vision.faces import Face, FacePack

SMALLEST = 0.15  # of the photo's short side: about 75 pixels of the 512 that Stable Diffusion sees, ten latent cells


@dataclass(frozen=True)
class Portrait:
    """The face that is learned. others: of the same photo, so that a mask can leave them out."""

    face: Face
    others: tuple[Face, ...]


def portraits(
    card: Card, photos: Sequence[Image.Image], names: Sequence[str], *, pick: int | None = None, alike: float = 0.28
) -> list[Portrait]:
    """The one face of each photo that is large enough to learn, or number `pick`, counted from 1, the largest first.

    names: what the person calls each photo. alike: the cosine from which two faces count as one person's.
    Raises PhotoRefused (no face, too small, several, two people), UsageProblem (pick), WeightsMissing (no face pack).
    """
    pack = opened(card)
    found = [_portrait(pack, photo, name, pick) for photo, name in zip(photos, names, strict=True)]
    embeddings = [pack.embed(photo, [each.face])[0] for photo, each in zip(photos, found, strict=True)]
    for (a, b), (one, other) in zip(combinations(embeddings, 2), combinations(names, 2), strict=True):
        similarity = float(np.dot(a, b))
        if similarity < alike:
            raise PhotoRefused(
                f"{one} and {other} show two different people: their faces have a similarity of {similarity:.2f}, "
                f"photos of one person at least {alike:.2f}",
                "learn each person from photos of that person alone",
            )
    return found


def opened(card: Card) -> FacePack:
    """The base's face pack, opened once per process. Raises WeightsMissing where it is not on this machine."""
    return _opened(folder_of(card))


def folder_of(card: Card) -> Path:
    """Where the base's face pack lies. Raises WeightsMissing where it is not on this machine."""
    if not isinstance(card.faces, Path):
        mask = "" if isinstance(card.clipseg, Path) else " --mask MASK"  # which CLIPSeg would make
        raise WeightsMissing(
            f"faces are found and recognised with the pack {card.faces}, which is not on this machine",
            f"fetch it with `pmagic models pull {card.faces}`, or learn without it: `--recipe reference{mask}`",
        )
    return card.faces


@lru_cache(maxsize=2)
def _opened(folder: Path) -> FacePack:
    return faces.load(folder)


def _portrait(pack: FacePack, photo: Image.Image, name: str, pick: int | None) -> Portrait:
    found = pack.find(photo)
    if not found:
        raise PhotoRefused(
            f"no face is found in {name}",
            "give a photo in which the face is larger and looks at the camera; for anything but people say what it is, "
            "for example `--class cat`",
        )
    if pick is not None and not 1 <= pick <= len(found):
        raise UsageProblem(f"there is no face {pick} in {name}: {_told(found)}", f"choose one from 1 to {len(found)}")
    least = SMALLEST * min(photo.size)
    large = [face for face in found if _side(face) >= least]
    face = found[pick - 1] if pick is not None else (large or found)[0]
    if _side(face) < least:
        raise PhotoRefused(
            f"the face in {name} is too small: {_told([face])} of {photo.width} x {photo.height} pixels, "
            f"its longer side must be at least {least:.0f}",
            "cut the photo so that the face fills more of it",
        )
    if pick is None and len(large) > 1:
        raise PhotoRefused(
            f"there are {len(found)} faces in {name}: {_told(found)}",
            f"say which with --face 1 to --face {len(found)}, or cut the photo to one face",
        )
    return Portrait(face, tuple(each for each in found if each is not face))


def _side(face: Face) -> float:
    left, top, right, bottom = face.box
    return max(right - left, bottom - top)


def _told(found: Sequence[Face]) -> str:
    """Each face with its size and place: `1: 80 x 110 at 40, 12`."""
    told = []
    for number, face in enumerate(found, 1):
        left, top, right, bottom = face.box
        told.append(f"{number}: {right - left:.0f} x {bottom - top:.0f} at {left:.0f}, {top:.0f}")
    return "; ".join(told) if len(found) > 1 else told[0].partition(": ")[2]
