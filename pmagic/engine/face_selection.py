"""Face selection: which face of each photo is learned. Unsuitable photos are refused here, before training."""

# P photos . E embedding width

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image

from pmagic.bases import model_spec as bases
from pmagic.bases.model_spec import ModelSpec
from pmagic.errors import PhotoRefused, UsageError, WeightsMissing
from pmagic.vision import faces, sightings
from pmagic.vision.faces import Face, FacePack
from pmagic.vision.sightings import Sighting

SMALLEST = 0.15  # of the photo's short side: about 75 of the 512 pixels of Stable Diffusion, ten latent cells


@dataclass(frozen=True)
class SelectedFace:
    """The face that is learned, in pixels of the photo turned by `turn`, which `upright` returns.

    others: the other faces of the photo, so that a mask can exclude them. turn: degrees, counterclockwise. margin: the
    border that was added around the photo for the detector to find the face, as a share of its sides; usually 0.
    """

    face: Face
    others: tuple[Face, ...]
    turn: int = 0
    margin: float = 0

    def turn_upright(self, picture: Image.Image) -> Image.Image:
        """The photo, or its mask, turned so that the face is upright."""
        return picture.transpose(_TRANSPOSES[self.turn]) if self.turn else picture

    @property
    def search(self) -> str:
        """How the face was found if not in the unchanged photo, else ""."""
        ways = [f"turned by {self.turn} degrees against the clock"] * (self.turn != 0)
        ways += ["with a margin around the photo"] * (self.margin != 0)
        return " and ".join(ways)

    @property
    def place(self) -> str:
        """Which face of the photo it is: `face 2 (80 x 110 at 40, 12)`, numbered as for `--face`, the largest first."""
        number = 1 + sum(each.area > self.face.area for each in self.others)
        return f"face {number} ({_list([self.face])})"


_TRANSPOSES = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


def select_faces(
    spec: ModelSpec,
    photos: Sequence[Image.Image],
    names: Sequence[str],
    *,
    pick: int | None = None,
    alike: float = 0.28,
) -> list[SelectedFace]:
    """The face of each photo that is large enough to learn, or face number `pick`, from 1, the largest first.

    In a photo with several faces, `pick` selects one; without it, the person whom all photos show is selected.
    names: of the photos, for messages. alike: the least cosine of two faces that count as one person's.
    Raises PhotoRefused (no face, too small, several, two people), UsageError (pick), WeightsMissing (no face pack).
    """
    pack = open_pack(spec)
    views = [_view(spec, pack, photo, name) for photo, name in zip(photos, names, strict=True)]
    most = max((len(view.faces) for view in views), default=0)
    if pick is not None and not 1 <= pick <= most:
        counted = "; ".join(f"{view.name}: {_list(view.faces)}" for view in views)
        raise UsageError(f"there is no face {pick} in {counted}", f"choose one from 1 to {most}")
    several = pick is not None and len(photos) > 1
    candidates = [_candidates(view, None if several and len(view.faces) == 1 else pick) for view in views]
    embeddings = [pack.embed(view.photo, faces) for view, faces in zip(views, candidates, strict=True)]
    chosen = _in_common(embeddings, alike) if len(photos) > 1 else [0] * len(photos)
    if chosen is None or max(map(len, candidates)) > 1 == len(photos):
        _refuse_several(views, candidates)
    rows = [rows[k] for rows, k in zip(embeddings, chosen, strict=True)]
    for (a, b), (one, other) in zip(combinations(rows, 2), combinations(names, 2), strict=True):
        similarity = float(np.dot(a, b))
        if similarity < alike:
            raise PhotoRefused(
                f"{one} and {other} show two different people: their faces have a similarity of {similarity:.2f}, "
                f"photos of one person at least {alike:.2f}",
                "learn each person from photos of that person alone",
            )
    return [view.portrait(faces[k]) for view, faces, k in zip(views, candidates, chosen, strict=True)]


def open_pack(spec: ModelSpec) -> FacePack:
    """The base's face pack, opened once per process. Raises WeightsMissing if it is not on this machine."""
    return _load_pack(folder_of(spec))


def folder_of(spec: ModelSpec) -> Path:
    """The folder of the base's face pack. Raises WeightsMissing if it is not on this machine."""
    if not isinstance(spec.faces, Path):
        mask = "" if isinstance(spec.clipseg, Path) else " --mask MASK"  # which CLIPSeg would make
        raise WeightsMissing(
            f"faces are found and recognised with the pack {spec.faces}, which is not on this machine",
            f"fetch it with `pmagic models pull {spec.faces}`, or learn without it: `--recipe reference{mask}`",
        )
    return spec.faces


@lru_cache(maxsize=2)
def _load_pack(folder: Path) -> FacePack:
    return faces.load(folder)


@dataclass(frozen=True)
class _View:
    """A photo with the faces that were found in it."""

    name: str
    photo: Image.Image  # turned
    sighting: Sighting

    @property
    def faces(self) -> Sequence[Face]:
        return self.sighting.faces

    def portrait(self, face: Face) -> SelectedFace:
        others = tuple(each for each in self.faces if each is not face)
        return SelectedFace(face, others, self.sighting.turn, self.sighting.margin)


def _view(spec: ModelSpec, pack: FacePack, photo: Image.Image, name: str) -> _View:
    sighting = sightings.find_upright(pack, photo)
    if sighting is None:
        what, advice = _no_face(spec, name)
        raise PhotoRefused(what, advice)
    return _View(name, SelectedFace(sighting.faces[0], (), sighting.turn).turn_upright(photo), sighting)


def _no_face(spec: ModelSpec, name: str) -> tuple[str, str]:
    """The message and the advice for a photo without a face; they mention the domain of a base that has only one."""
    tried = "neither as it is nor with a margin around it, nor turned by 90, 180 or 270 degrees"
    domain = spec.domain
    other = "for anything but people say what it is, for example `--class cat`"
    if domain is None:
        return (
            f"no face is found in {name}, {tried}",
            f"give a sharp photo in which the whole face is seen from the front and not covered, its longer side at "
            f"least {SMALLEST:.0%} of the photo's shorter one; {other}",
        )
    samples = f"try one of its own: {', '.join(map(str, domain.samples))}; " if domain.samples else ""
    return (
        f"no face is found in {name}, {tried}; the base {spec.name!r} knows {domain.what} only, so it does not learn "
        "from photographs",
        f"{samples}{bases.way_to_photographs()}; {other}",
    )


def _candidates(view: _View, pick: int | None) -> list[Face]:
    """The candidate faces: number `pick`, or all that are large enough. Raises PhotoRefused, UsageError."""
    if pick is not None and pick > len(view.faces):
        raise UsageError(
            f"there is no face {pick} in {view.name}: {_list(view.faces)}", f"choose one from 1 to {len(view.faces)}"
        )
    least = SMALLEST * min(view.photo.size)
    large = [face for face in view.faces if _side(face) >= least]
    face = view.faces[pick - 1] if pick is not None else (large or view.faces)[0]
    if _side(face) < least:
        raise PhotoRefused(
            f"the face in {view.name} is too small: {_list([face])} of {view.photo.width} x {view.photo.height} "
            f"pixels, its longer side must be at least {least:.0f}",
            "cut the photo so that the face fills more of it",
        )
    return [face] if pick is not None else large


def _in_common(embeddings: Sequence[np.ndarray], alike: float) -> list[int] | None:
    """The index in each photo of the face of the person whom all photos show; None if that is not exactly one person.

    embeddings: (faces, E) for each photo. If there are photos with a single face, their mean decides; otherwise the
    only face of the first photo that has a similar one in every other photo.
    """
    alone = [rows for rows in embeddings if len(rows) == 1]
    if alone:
        mean = np.concatenate(alone).mean(axis=0)
        return [int(np.argmax(rows @ mean)) for rows in embeddings]
    first, *rest = embeddings
    shared = [k for k, row in enumerate(first) if all((rows @ row).max() >= alike for rows in rest)]
    if len(shared) != 1:
        return None
    return [int(np.argmax(rows @ first[shared[0]])) for rows in embeddings]


def _refuse_several(views: Sequence[_View], candidates: Sequence[Sequence[Face]]) -> NoReturn:
    view = next(view for view, faces in zip(views, candidates, strict=True) if len(faces) > 1)
    count = len(view.faces)
    if len(views) == 1:
        raise PhotoRefused(
            f"there are {count} faces in {view.name}: {_list(view.faces)}",
            f"say which with --face 1 to --face {count}, or cut the photo to one face",
        )
    raise PhotoRefused(
        "every photo shows several people, and not exactly one of them is in all: "
        + "; ".join(f"{each.name} has {_list(each.faces)}" for each in views),
        "add a photo in which the person is alone, or cut the photos to the person",
    )


def _side(face: Face) -> float:
    left, top, right, bottom = face.box
    return max(right - left, bottom - top)


def _list(found: Sequence[Face]) -> str:
    """Each face with its size and position: `1: 80 x 110 at 40, 12`."""
    texts = []
    for number, face in enumerate(found, 1):
        left, top, right, bottom = face.box
        texts.append(f"{number}: {right - left:.0f} x {bottom - top:.0f} at {left:.0f}, {top:.0f}")
    return "; ".join(texts) if len(found) > 1 else texts[0].partition(": ")[2]
