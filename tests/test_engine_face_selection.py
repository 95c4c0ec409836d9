"""Portraits: the one face that is learned, or a refusal that says what was found and where."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from packs import photo_of
from PIL import Image

from pmagic.bases import loading
from pmagic.bases import model_spec as bases
from pmagic.bases.model_spec import ModelSpec
from pmagic.engine.face_selection import open_pack, select_faces
from pmagic.errors import PhotoRefused, UsageError, WeightsMissing
from pmagic.vision import sightings
from pmagic.vision.faces import Face, FacePack

pytest_plugins = ["tiny"]


@pytest.fixture
def spec(faced_base: loading.Base) -> ModelSpec:
    return faced_base.spec


def test_the_only_face_is_taken(spec: ModelSpec) -> None:
    (found,) = select_faces(spec, [photo_of((5, 3))], ["alice.jpg"])
    assert found.face.box == pytest.approx((32, 12, 56, 44))
    assert found.others == ()


def test_no_face_is_refused_by_name(spec: ModelSpec) -> None:
    with pytest.raises(PhotoRefused, match=r"no face is found in wall\.jpg") as raised:
        select_faces(spec, [photo_of((5, 3)), photo_of()], ["alice.jpg", "wall.jpg"])
    assert "--class cat" in raised.value.next_step


def test_two_faces_are_told_with_their_places_and_one_can_be_picked(spec: ModelSpec) -> None:
    photo = photo_of((2, 3), (11, 9))
    with pytest.raises(PhotoRefused) as raised:
        select_faces(spec, [photo], ["us.jpg"])
    assert raised.value.what.startswith("there are 2 faces in us.jpg: 1: 24 x 32 at ")
    assert "24 x 32 at 8, 12" in raised.value.what and "24 x 32 at 80, 60" in raised.value.what
    assert "--face 1 to --face 2" in raised.value.next_step
    first, second = (select_faces(spec, [photo], ["us.jpg"], pick=number)[0] for number in (1, 2))
    assert {first.face.box[0], second.face.box[0]} == {8, 80}
    assert first.others[0].box == second.face.box
    with pytest.raises(UsageError, match=r"there is no face 3 in us\.jpg"):
        select_faces(spec, [photo], ["us.jpg"], pick=3)


def test_a_face_too_small_is_refused_with_its_size(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    assert select_faces(spec, [photo_of((5, 3))], ["far.jpg"])  # a quarter of the photo's height
    monkeypatch.setattr("pmagic.engine.face_selection.SMALLEST", 0.3)
    with pytest.raises(PhotoRefused) as raised:
        select_faces(spec, [photo_of((5, 3))], ["far.jpg"])
    assert raised.value.what == (
        "the face in far.jpg is too small: 24 x 32 at 32, 12 of 128 x 128 pixels, its longer side must be at least 38"
    )
    with pytest.raises(PhotoRefused, match="is too small"):
        select_faces(spec, [photo_of((2, 3), (11, 9))], ["far.jpg"], pick=2)


def test_faces_in_the_background_do_not_count(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = open_pack(spec)
    near, far = pack.find(photo_of((5, 3)))[0], pack.find(photo_of((11, 9)))[0]
    far = replace(far, box=(80.0, 60.0, 88.0, 70.0))
    monkeypatch.setattr(FacePack, "find", lambda self, picture: [near, far])
    (found,) = select_faces(spec, [photo_of((5, 3))], ["street.jpg"])
    assert (found.face, found.others) == (near, (far,))


def test_photos_of_two_people_are_refused_with_the_similarity(spec: ModelSpec) -> None:
    photos, names = [photo_of((5, 3)), photo_of((6, 4))], ["a.jpg", "b.jpg"]
    assert len(select_faces(spec, photos, names, alike=-1.0)) == 2
    assert len(select_faces(spec, [photos[0]] * 2, names, alike=0.999)) == 2
    with pytest.raises(PhotoRefused, match=r"a\.jpg and b\.jpg show two different people: .* similarity of -?\d\.\d\d"):
        select_faces(spec, photos, names, alike=1.01)


def test_without_a_pack_it_says_which_to_fetch(tiny_base: loading.Base) -> None:
    with pytest.raises(WeightsMissing, match="buffalo_l") as raised:
        select_faces(tiny_base.spec, [tiny.photo()], ["x.jpg"])
    assert "pmagic models pull buffalo_l" in raised.value.next_step
    assert "--recipe reference" in raised.value.next_step


MINI = bases.resolve("mini")
PORTRAITS = MINI.domain.samples  # alice, bruno, chiara


def drawn(number: int) -> Image.Image:
    return Image.open(PORTRAITS[number]).convert("RGB")


def beside(*pictures: Image.Image) -> Image.Image:
    whole = Image.new("RGB", (sum(each.width for each in pictures), pictures[0].height))
    for k, each in enumerate(pictures):
        whole.paste(each, (sum(before.width for before in pictures[:k]), 0))
    return whole


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_face_that_lies_is_learned_upright(turn: int, number: int) -> None:
    upright = drawn(number)
    (known,) = select_faces(MINI, [upright], ["upright.png"])
    (found,) = select_faces(MINI, [upright.rotate(turn, expand=True)], ["turned.png"])
    assert (found.turn, found.margin) == ((360 - turn) % 360, 0)
    assert found.turn_upright(upright.rotate(turn, expand=True)).tobytes() == upright.tobytes()
    assert np.array_equal(found.face.landmarks, known.face.landmarks)
    assert (found.search == "") is (turn == 0)


@pytest.mark.parametrize("turn", [0, 90])
def test_a_face_too_large_for_the_detector_is_found_with_a_margin(turn: int) -> None:
    close = Image.open(Path(__file__).parent / "cases" / "close-0.1.png").convert("RGB")
    assert open_pack(MINI).find(close) == []
    (found,) = select_faces(MINI, [close.rotate(turn, expand=True)], ["close.png"])
    assert found.margin > 0 and found.turn == (360 - turn) % 360 and "margin" in found.search
    left, top, right, bottom = found.face.box
    assert left < 30 and right > close.width - 30 and bottom - top > close.height  # nearly all of the photo
    eyes, mouth = found.face.landmarks[:2].mean(axis=0), found.face.landmarks[3:].mean(axis=0)
    assert 230 < eyes[1] < 330 and 440 < mouth[1] < 540 and 200 < eyes[0] < 300


@pytest.mark.parametrize(("name", "cut", "turn"), [("bruno", 0.1, 0), ("bruno", 0.1, 180), ("chiara", 0.15, 90)])
def test_a_face_that_fills_the_photo_is_not_taken_for_one_on_its_head(name: str, cut: float, turn: int) -> None:
    """Without a margin the detector sees a face cut so on its head alone, and is sure of it."""
    portrait = next(Image.open(each) for each in MINI.domain.samples if each.stem == name).convert("RGB")
    left, top, right, bottom = open_pack(MINI).find(portrait)[0].box
    across, down = cut * (right - left), cut * (bottom - top)
    close = portrait.crop([round(each) for each in (left + across, top + down, right - across, bottom - down)])
    (found,) = select_faces(MINI, [close.resize((512, 608)).rotate(turn, expand=True)], ["close.png"])
    assert found.turn == (360 - turn) % 360
    eyes, mouth = found.face.landmarks[:2].mean(axis=0), found.face.landmarks[3:].mean(axis=0)
    assert 100 < eyes[1] < 330 < mouth[1] < 600 and abs(eyes[0] - mouth[0]) < 100


def test_a_detector_that_marks_an_upside_down_face_rightly_is_believed() -> None:
    face = Face((40, 40, 80, 90), np.float32([[70, 80], [50, 80], [60, 65], [66, 50], [54, 50]]), 0.9)
    upright = replace(face, landmarks=np.float32([[50, 50], [70, 50], [60, 65], [54, 80], [66, 80]]))
    seen = {0: [face], 90: [], 180: [upright], 270: []}

    class Pack:
        turn = 0

        def find(self, picture: Image.Image) -> list[Face]:
            return seen[90 * picture.getpixel((0, 0))[0]]

    photo = Image.new("RGB", (128, 128))
    for k, corner in enumerate([(0, 0), (127, 0), (127, 127), (0, 127)]):  # which turn brings it to the left and top
        photo.putpixel(corner, (k, 0, 0))
    found = sightings.find_upright(Pack(), photo)
    assert found == sightings.Sighting([upright], 180, 0)


def test_no_face_on_a_base_of_one_domain_says_what_it_knows_and_the_way_to_photographs() -> None:
    from skimage import data

    with pytest.raises(PhotoRefused) as caught:
        select_faces(MINI, [Image.fromarray(data.rocket())], ["rocket.jpg"])
    assert "no face is found in rocket.jpg" in caught.value.what and "knows drawn faces only" in caught.value.what
    advice = caught.value.next_step
    assert all(str(path) in advice and path.is_file() for path in PORTRAITS) and len(PORTRAITS) == 3
    for words in ("pmagic models pull sd14", "pmagic models pull buffalo_l", "--base sd14", "non-commercial"):
        assert words in advice


def test_no_face_on_a_base_for_everything_speaks_of_the_photo(spec: ModelSpec) -> None:
    with pytest.raises(PhotoRefused) as caught:
        select_faces(spec, [photo_of()], ["wall.jpg"])
    assert "turned by 90, 180 or 270" in caught.value.what and "knows" not in caught.value.what
    assert "from the front" in caught.value.next_step and "larger" not in caught.value.next_step


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("group_first", [False, True])
def test_the_face_in_common_is_taken_from_a_group(first: int, group_first: bool) -> None:
    photos, names = [drawn(first), beside(drawn(1), drawn(0))], ["alone.png", "group.png"]
    if group_first:
        photos, names = photos[::-1], names[::-1]
    found = select_faces(MINI, photos, names)
    in_group = found[0 if group_first else 1]
    assert (in_group.face.box[0] > 256) is (first == 0) and len(in_group.others) == 1


def test_two_groups_with_one_person_in_common_need_no_photo_of_that_person_alone() -> None:
    photos, names = [beside(drawn(1), drawn(0)), beside(drawn(0), drawn(2))], ["one.png", "two.png"]
    one, two = select_faces(MINI, photos, names)
    assert one.face.box[0] > 256 > two.face.box[0]
    with pytest.raises(PhotoRefused, match="several people, and not exactly one") as caught:
        select_faces(MINI, [photos[0], beside(drawn(0), drawn(1))], names)
    assert "alone" in caught.value.next_step


def test_a_number_says_which_face_of_the_group_and_the_single_photo_needs_none() -> None:
    group = beside(drawn(1), drawn(0))
    numbers = [face.box[0] > 256 for face in open_pack(MINI).find(group)]
    right, wrong = numbers.index(True) + 1, numbers.index(False) + 1
    found = select_faces(MINI, [drawn(0), group], ["alice.png", "group.png"], pick=right)
    assert found[1].face.box[0] > 256
    with pytest.raises(PhotoRefused, match="two different people"):
        select_faces(MINI, [drawn(0), group], ["alice.png", "group.png"], pick=wrong)
    with pytest.raises(UsageError, match="there is no face 3 in"):
        select_faces(MINI, [drawn(0), group], ["alice.png", "group.png"], pick=3)


def test_a_group_without_the_person_is_refused() -> None:
    with pytest.raises(PhotoRefused, match="two different people"):
        select_faces(MINI, [drawn(0), beside(drawn(1), drawn(2))], ["alice.png", "group.png"])
