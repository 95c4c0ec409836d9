"""Layout check: the number of faces in each region of a layout. A base may draw one person although two were asked for.

The faces are not identified, because a persona does not store the embedding of its photo's face.
"""

from collections.abc import Mapping

from PIL import Image

from pmagic.engine.inpainting import InpaintRegion
from pmagic.engine.regions import Box
from pmagic.vision.faces import FacePack


def count_faces(
    pack: FacePack, picture: Image.Image, regions: Mapping[str, Box], edit: InpaintRegion | None
) -> dict[str, int]:
    """By name, the number of faces with their centre in the name's region; the background's own faces do not count."""
    frame = edit.frame if edit is not None else (0, 0, *picture.size)
    found = dict.fromkeys(regions, 0)
    for face in pack.find(picture):
        middle = [(face.box[axis] + face.box[axis + 2]) / 2 for axis in (0, 1)]
        column, row = (min(max(int(middle[axis]), 0), picture.size[axis] - 1) for axis in (0, 1))
        if edit is not None and not edit.mask.getpixel((column, row)):
            continue
        x, y = ((middle[axis] - frame[axis]) / (frame[axis + 2] - frame[axis]) for axis in (0, 1))
        for name, (left, top, right, bottom) in regions.items():
            found[name] += left <= x < right and top <= y < bottom
    return found
