"""Sightings: faces of a photo that may lie on its side or be fuller of a face than the detector was trained for.

A detector finds faces that stand upright and are not larger than most of the picture. So the photo is shown to it in
four turns, and where it sees nothing, with a margin around it, in which the face is smaller.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pmagic.vision.faces import Face, FacePack

TURNS = (0, 90, 180, 270)  # degrees against the clock
MARGINS = (0.0, 0.25, 0.5, 1.0)  # of the photo's sides, on each side
SURE = 0.7  # the score that a face must have which is found only turned or with a margin
# How much surer, as a difference of log-odds, the detector must be of a turned photo than of the photo as it is. An
# upside-down face is found too, with eyes for the mouth, but less surely: by 1.97 at least in 78 drawn portraits.
SURER = 1.0
FILLING = 0.7  # of the photo's width or height


@dataclass(frozen=True)
class Sighting:
    """Faces, the largest first, in pixels of the photo once turned by `turn`. margin: of the sides, 0 for none."""

    faces: Sequence[Face]
    turn: int
    margin: float


def find_upright(pack: FacePack, photo: Image.Image) -> Sighting | None:
    """The faces in the turn in which they stand upright, with no more margin than needed; None where there is none.

    The photo is tried without a margin first. A face that fills it is easily taken for one on its head, so of such a
    photo, and of one without a face, all turns are compared with all margins.
    """
    seen = [_sighting(pack, photo, turn, 0) for turn in TURNS]
    choice = _choose(seen)
    if choice is None or _fills(choice, photo):
        seen += [_sighting(pack, photo, turn, margin) for margin in MARGINS[1:] for turn in TURNS]
        choice = _choose(seen)
    return choice


def _choose(seen: Sequence[Sighting]) -> Sighting | None:
    """The least margin of the turn of which the detector is surest, which is none unless another is SURER."""
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
    """Whether the surest face takes FILLING of the photo's width or height."""
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
    return [_moved(face, across, down) for face in found]


def _moved(face: Face, across: int, down: int) -> Face:
    """From pixels of the picture with a margin to pixels of the photo, of which the box may reach out."""
    if not across and not down:
        return face
    left, top, right, bottom = face.box
    box = (left - across, top - down, right - across, bottom - down)
    return Face(box, (face.landmarks - np.array([across, down])).astype(np.float32), face.score)


def _is_upright(sighting: Sighting) -> bool:
    """Whether the surest face's mouth is below its eyes, by no more than 45 degrees to the side."""
    if not sighting.faces:
        return False
    points = max(sighting.faces, key=lambda face: face.score).landmarks
    across, down = points[3:].mean(axis=0) - points[:2].mean(axis=0)
    return down > 0 and abs(across) <= down


def _score(sighting: Sighting) -> float:
    return max(face.score for face in sighting.faces)


def _log_odds(sightings: Sequence[Sighting]) -> float:
    """Of the detector's highest score in any of them."""
    score = max(map(_score, sightings))
    return float(np.log(score / max(1 - score, 1e-6)))
