"""Sightings: faces in photos that may be rotated, or in which the face is larger than in the detector's training.

A detector finds upright faces that do not fill most of the picture. So the photo is tried in four turns. If no face is
found, or the face fills the photo, the photo is also tried with a margin around it, in which the face is smaller.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pmagic.vision.faces import Face, FacePack

TURNS = (0, 90, 180, 270)  # degrees counterclockwise
MARGINS = (0.0, 0.25, 0.5, 1.0)  # fractions of the photo's sides, added on each side
SURE = 0.7  # the minimum score of a face that is found only in a turn or with a margin
# The minimum difference of the detector's log-odds by which a turned photo must exceed the unturned photo. The detector
# also finds upside-down faces, taking the eyes for the mouth, but with log-odds lower by at least 1.97 in 78 drawn
# portraits.
SURER = 1.0
FILLING = 0.7  # a fraction of the photo's width or height


@dataclass(frozen=True)
class Sighting:
    """Faces, the largest first, in pixels of the photo turned by `turn`. margin: a fraction of the sides, or 0."""

    faces: Sequence[Face]
    turn: int
    margin: float


def find_upright(pack: FacePack, photo: Image.Image) -> Sighting | None:
    """Find the faces in the turn in which they are upright, with the smallest sufficient margin; None without a face.

    The photo is first tried without a margin. The detector easily takes a face that fills the photo for an upside-down
    face. So for such a photo, and for a photo without a face, all turns are compared with all margins.
    """
    seen = [_sighting(pack, photo, turn, 0) for turn in TURNS]
    choice = _choose(seen)
    if choice is None or _fills(choice, photo):
        seen += [_sighting(pack, photo, turn, margin) for margin in MARGINS[1:] for turn in TURNS]
        choice = _choose(seen)
    return choice


def _choose(seen: Sequence[Sighting]) -> Sighting | None:
    """The smallest margin in the turn with the highest score. A turn other than 0 must exceed turn 0 by SURER."""
    plain = seen[0]
    sure = [each for each in seen if _is_upright(each) and _score(each) >= SURE]
    turned = [each for each in sure if each.turn != 0]
    unturned = [each for each in sure if each.turn == 0]
    if not unturned and _is_upright(plain):
        unturned = [plain]
    if turned and (not unturned or _log_odds(turned) >= _log_odds(unturned) + SURER):
        turn = max(turned, key=_score).turn
        return next(each for each in turned if each.turn == turn)
    if unturned:
        return unturned[0]
    return plain if plain.faces else None


def _sighting(pack: FacePack, photo: Image.Image, turn: int, margin: float) -> Sighting:
    return Sighting(_find(pack, photo, turn, margin), turn, margin)


def _fills(sighting: Sighting, photo: Image.Image) -> bool:
    """Whether the face with the highest score takes FILLING of the photo's width or height."""
    left, top, right, bottom = max(sighting.faces, key=lambda face: face.score).box
    width, height = photo.size if sighting.turn in (0, 180) else photo.size[::-1]
    return right - left >= FILLING * width or bottom - top >= FILLING * height


def _find(pack: FacePack, photo: Image.Image, turn: int, margin: float) -> list[Face]:
    across, down = (round(margin * side) for side in photo.size)
    shown = photo
    if margin:
        colour = photo.convert("RGB").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        shown = Image.new("RGB", (photo.width + 2 * across, photo.height + 2 * down), colour)
        shown.paste(photo, (across, down))
    if turn in (90, 270):
        across, down = down, across
    found = pack.find(shown.rotate(turn, expand=True) if turn else shown)
    return [_move(face, across, down) for face in found]


def _move(face: Face, across: int, down: int) -> Face:
    """The face in pixels of the photo without the margin. Its box may extend beyond the photo."""
    if not across and not down:
        return face
    left, top, right, bottom = face.box
    box = (left - across, top - down, right - across, bottom - down)
    return Face(box, (face.landmarks - np.array([across, down])).astype(np.float32), face.score)


def _is_upright(sighting: Sighting) -> bool:
    """Whether the mouth of the face with the highest score is below its eyes, at most 45 degrees to the side."""
    if not sighting.faces:
        return False
    points = max(sighting.faces, key=lambda face: face.score).landmarks
    across, down = points[3:].mean(axis=0) - points[:2].mean(axis=0)
    return down > 0 and abs(across) <= down


def _score(sighting: Sighting) -> float:
    return max(face.score for face in sighting.faces)


def _log_odds(sightings: Sequence[Sighting]) -> float:
    """The log-odds of the highest score in the sightings."""
    score = max(map(_score, sightings))
    return float(np.log(score / max(1 - score, 1e-6)))
