"""Portraits: the one face that is learned, or a refusal that says what was found and where."""

from dataclasses import replace

import pytest
import tiny
from packs import photo_of

from pmagic.bases import loading
from pmagic.bases.card import Card
from pmagic.engine.portraits import opened, portraits
from pmagic.errors import PhotoRefused, UsageProblem, WeightsMissing
from pmagic.vision.faces import FacePack

pytest_plugins = ["tiny"]


@pytest.fixture
def card(faced_base: loading.Base) -> Card:
    return faced_base.card


def test_the_only_face_is_taken(card: Card) -> None:
    (found,) = portraits(card, [photo_of((5, 3))], ["alice.jpg"])
    assert found.face.box == pytest.approx((32, 12, 56, 44))
    assert found.others == ()


def test_no_face_is_refused_by_name(card: Card) -> None:
    with pytest.raises(PhotoRefused, match=r"no face is found in wall\.jpg") as raised:
        portraits(card, [photo_of((5, 3)), photo_of()], ["alice.jpg", "wall.jpg"])
    assert "--class cat" in raised.value.next_step


def test_two_faces_are_told_with_their_places_and_one_can_be_picked(card: Card) -> None:
    photo = photo_of((2, 3), (11, 9))
    with pytest.raises(PhotoRefused) as raised:
        portraits(card, [photo], ["us.jpg"])
    assert raised.value.what.startswith("there are 2 faces in us.jpg: 1: 24 x 32 at ")
    assert "24 x 32 at 8, 12" in raised.value.what and "24 x 32 at 80, 60" in raised.value.what
    assert "--face 1 to --face 2" in raised.value.next_step
    first, second = (portraits(card, [photo], ["us.jpg"], pick=number)[0] for number in (1, 2))
    assert {first.face.box[0], second.face.box[0]} == {8, 80}
    assert first.others[0].box == second.face.box
    with pytest.raises(UsageProblem, match=r"there is no face 3 in us\.jpg"):
        portraits(card, [photo], ["us.jpg"], pick=3)


def test_a_face_too_small_is_refused_with_its_size(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    assert portraits(card, [photo_of((5, 3))], ["far.jpg"])  # a quarter of the photo's height
    monkeypatch.setattr("pmagic.engine.portraits.SMALLEST", 0.3)
    with pytest.raises(PhotoRefused) as raised:
        portraits(card, [photo_of((5, 3))], ["far.jpg"])
    assert raised.value.what == (
        "the face in far.jpg is too small: 24 x 32 at 32, 12 of 128 x 128 pixels, its longer side must be at least 38"
    )
    with pytest.raises(PhotoRefused, match="is too small"):
        portraits(card, [photo_of((2, 3), (11, 9))], ["far.jpg"], pick=2)


def test_faces_in_the_background_do_not_count(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = opened(card)
    near, far = pack.find(photo_of((5, 3)))[0], pack.find(photo_of((11, 9)))[0]
    far = replace(far, box=(80.0, 60.0, 88.0, 70.0))
    monkeypatch.setattr(FacePack, "find", lambda self, picture: [near, far])
    (found,) = portraits(card, [photo_of((5, 3))], ["street.jpg"])
    assert (found.face, found.others) == (near, (far,))


def test_photos_of_two_people_are_refused_with_the_similarity(card: Card) -> None:
    photos, names = [photo_of((5, 3)), photo_of((6, 4))], ["a.jpg", "b.jpg"]
    assert len(portraits(card, photos, names, alike=-1.0)) == 2
    assert len(portraits(card, [photos[0]] * 2, names, alike=0.999)) == 2
    with pytest.raises(PhotoRefused, match=r"a\.jpg and b\.jpg show two different people: .* similarity of -?\d\.\d\d"):
        portraits(card, photos, names, alike=1.01)


def test_without_a_pack_it_says_which_to_fetch(tiny_base: loading.Base) -> None:
    with pytest.raises(WeightsMissing, match="buffalo_l") as raised:
        portraits(tiny_base.card, [tiny.photo()], ["x.jpg"])
    assert "pmagic models pull buffalo_l" in raised.value.next_step
    assert "--recipe reference" in raised.value.next_step
