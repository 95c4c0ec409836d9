"""Faces are counted by place: by their centre, as shares of the rendered area, without those of the background."""

import pytest
from packs import photo_of
from PIL import Image

from pmagic.bases import loading
from pmagic.engine import face_selection, layout_check
from pmagic.engine.inpainting import inpaint_region
from pmagic.engine.regions import Box
from pmagic.vision.faces import FacePack

pytest_plugins = ["tiny"]

HALVES: dict[str, Box] = {"alice": (0, 0, 0.5, 1), "bob": (0.5, 0, 1, 1)}
LEFT, RIGHT = (3, 8), (12, 8)  # cells; the middles of these faces are at 28, 68 and at 100, 68


@pytest.fixture(scope="module")
def pack(faced_base: loading.Base) -> FacePack:
    return face_selection.open_pack(faced_base.spec)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([LEFT, RIGHT], {"alice": 1, "bob": 1}),
        ([RIGHT], {"alice": 0, "bob": 1}),
        ([LEFT, (3, 13)], {"alice": 2, "bob": 0}),
        ([], {"alice": 0, "bob": 0}),
    ],
)
def test_each_face_counts_where_its_middle_is(
    pack: FacePack, cells: list[tuple[int, int]], expected: dict[str, int]
) -> None:
    assert layout_check.count_faces(pack, photo_of(*cells), HALVES, None) == expected


def test_a_box_ends_where_it_says(pack: FacePack) -> None:
    found = layout_check.count_faces(
        pack, photo_of(LEFT), {"low": (0, 0.6, 1, 1), "high": (0, 0, 1, 0.5), "there": (0.2, 0.5, 0.25, 0.6)}, None
    )
    assert found == {"low": 0, "high": 0, "there": 1}


def test_in_a_background_only_the_mask_counts_and_places_are_of_the_frame(pack: FacePack) -> None:
    picture, mask = photo_of(LEFT, RIGHT), Image.new("L", (128, 128), 0)
    mask.paste(255, (80, 40, 120, 100))
    place = inpaint_region(picture, mask, (32, 32))
    assert place.frame == (38, 25, 128, 115)
    everywhere: dict[str, Box] = {"alice": (-1, -1, 1, 1), "bob": (0.6, 0.4, 0.75, 0.6)}
    assert layout_check.count_faces(pack, picture, everywhere, place) == {"alice": 1, "bob": 1}
    assert layout_check.count_faces(pack, picture, everywhere, None) == {"alice": 2, "bob": 0}
