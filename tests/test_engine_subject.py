"""The subject: what learning sees of a photo."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from packs import LANDMARKS, photo_of
from PIL import Image

from pmagic.bases import loading
from pmagic.engine import face_selection, subject
from pmagic.engine.face_selection import SelectedFace
from pmagic.errors import PhotoRefused, UsageError, WeightsMissing
from pmagic.vision.clipseg import ClipSeg
from pmagic.vision.faces import Face

pytest_plugins = ["tiny"]


def test_shapes_and_ranges(tiny_base: loading.Base) -> None:
    found = subject.encode_photos(tiny_base, [tiny.photo(0), tiny.photo(1)], ["a" * 64, "b" * 64], word="face")
    assert found.mean.shape == found.std.shape == (2, 4, 8, 8)
    assert found.std.min() > 0
    assert found.mask.shape == (2, 1, 8, 8) and found.mask.min() >= 0 and found.mask.max() <= 1
    assert found.landmarks is None and found.likeness is None  # the base has no face pack here
    assert found.image_embedding.shape == (2, 24)
    assert found.hashes == ("a" * 64, "b" * 64)
    assert not any(tensor.requires_grad for tensor in (found.mean, found.std, found.image_embedding))


def test_pixels_are_the_central_square_from_minus_one_to_one() -> None:
    image = Image.new("RGB", (60, 40), (0, 0, 0))
    image.paste((255, 255, 255), (10, 0, 50, 40))  # exactly the central square
    pixels = subject.photo_pixels(image, 32)
    assert pixels.shape == (1, 3, 32, 32) and pixels.eq(1).all()
    assert subject.photo_pixels(Image.new("RGB", (32, 32)), 32).eq(-1).all()


def test_the_mask_is_read_at_the_centre_of_each_latent_cell() -> None:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    mask.putpixel((36, 4), 51)
    found = subject.latent_mask(mask, (8, 8))
    assert found[0, 0, :, :4].eq(1).all() and found[0, 0, 1:, 4:].eq(0).all()
    assert found[0, 0, 0, 4] == pytest.approx(0.2)  # soft values stay


def test_the_left_half_is_the_left_half_of_the_latents(tiny_base: loading.Base) -> None:
    found = tiny.known(tiny_base).mask
    assert found[..., :4].eq(1).all() and found[..., 4:].eq(0).all()


def test_the_observer_sees_the_whole_photo(tiny_base: loading.Base) -> None:
    wide = Image.new("RGB", (60, 40), (90, 90, 90))
    marked = wide.copy()
    marked.paste((255, 0, 0), (0, 0, 8, 40))  # outside the central square
    plain, seen = (subject.encode_photos(tiny_base, [each], ["c" * 64], word="face") for each in (wide, marked))
    assert torch.equal(plain.mean, seen.mean)
    assert not torch.equal(plain.image_embedding, seen.image_embedding)


def test_what_cannot_be_learned_from(tiny_base: loading.Base) -> None:
    photo = tiny.photo()
    with pytest.raises(UsageError, match="no photo"):
        subject.encode_photos(tiny_base, [], [], word="face")
    with pytest.raises(UsageError, match="one mask cannot serve"):
        subject.encode_photos(tiny_base, [photo, photo], ["", ""], word="face", mask=Image.new("L", photo.size, 255))
    with pytest.raises(PhotoRefused, match="the mask is empty"):
        subject.encode_photos(tiny_base, [photo], [""], word="face", mask=Image.new("L", photo.size, 0))
    with pytest.raises(UsageError, match="must be a single one"):
        subject.encode_photos(tiny_base, [photo], [""], word="grandmother")


def test_a_style_is_the_whole_picture(tiny_base: loading.Base) -> None:
    found = subject.encode_photos(tiny_base, [tiny.photo(0)], ["a" * 64], word="painting", kind="style")
    assert found.mask.eq(1).all()


def test_clipseg_says_where_the_word_is(tiny_base: loading.Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wide photo, its right half the cat: of the central square the right half."""
    asked: list[str] = []

    def right_half(self: ClipSeg, picture: Image.Image, word: str) -> torch.Tensor:
        asked.append(word)
        found = torch.full((picture.height, picture.width), 0.1)
        found[:, picture.width // 2 :] = 0.9
        return found

    monkeypatch.setattr(ClipSeg, "mask", right_half)
    found = subject.encode_photos(tiny_base, [tiny.photo(0, (96, 64))], ["a" * 64], word="dog", kind="object").mask
    assert asked == ["dog"]
    assert found[..., :4].eq(found[0, 0, 0, 0]).all() and found[0, 0, 0, 0].item() == pytest.approx(0.1)
    assert found[..., 4:].min().item() == pytest.approx(0.9)
    monkeypatch.setattr(ClipSeg, "mask", lambda self, picture, word: torch.full(picture.size[::-1], 0.05))
    with pytest.raises(PhotoRefused, match="no dog is found in the photo: nowhere is it more than 5% probable"):
        subject.encode_photos(tiny_base, [tiny.photo()], ["a" * 64], word="dog", kind="object")


def test_the_square_moves_to_hold_the_face() -> None:
    def at(left: float, right: float) -> SelectedFace:
        return SelectedFace(Face((left, 10.0, right, 50.0), np.zeros((5, 2), np.float32), 1.0), ())

    assert subject.square_crop((200, 100)) == (50, 0, 150, 100)
    assert subject.square_crop((200, 100), at(80, 120)) == (50, 0, 150, 100)  # inside already
    assert subject.square_crop((200, 100), at(40, 80)) == (30, 0, 130, 100)  # with a margin of a quarter
    assert subject.square_crop((200, 100), at(150, 190)) == (100, 0, 200, 100)  # not beyond the photo
    assert subject.square_crop((100, 200), at(10, 50)) == (0, 0, 100, 100)


def test_a_face_is_known_by_its_landmarks_and_likeness_in_the_square(faced_base: loading.Base) -> None:
    photo = photo_of((5, 3))
    found = subject.encode_photos(faced_base, [photo], ["a" * 64], word="face")
    scale = faced_base.size / 128
    expected = (np.array(LANDMARKS) * 8 + [40, 24]) * scale
    np.testing.assert_allclose(found.landmarks[0].numpy(), expected, rtol=1e-5)
    assert found.likeness.shape == (1, 16) and found.likeness.norm().item() == pytest.approx(1, abs=1e-5)
    wide = Image.new("RGB", (256, 128))
    wide.paste((255, 0, 0), (192, 48, 208, 64))
    (there,) = face_selection.select_faces(faced_base.spec, [wide], ["wide.jpg"])
    where = subject.square_crop(wide.size, there)
    moved = subject.encode_photos(faced_base, [wide], ["b" * 64], word="face", known=[there])
    assert where == (108, 0, 236, 128)
    shifted = (there.face.landmarks - np.array(where[:2])) * faced_base.size / 128
    np.testing.assert_allclose(moved.landmarks[0].numpy(), shifted, rtol=1e-4)


def test_a_photo_and_its_mask_are_turned_as_the_face_stands(faced_base: loading.Base) -> None:
    photo, mask = photo_of((5, 3)), Image.new("L", (128, 128))
    mask.paste(255, (0, 0, 64, 128))
    (known,) = face_selection.select_faces(faced_base.spec, [photo], ["photo"])
    seen = [
        subject.encode_photos(faced_base, [picture], ["a" * 64], word="face", mask=marked, known=[each])
        for picture, marked, each in (
            (photo, mask, known),
            (photo.rotate(90), mask.rotate(90), replace(known, turn=270)),
        )
    ]
    for name in ("mean", "mask", "image_embedding", "landmarks", "likeness"):
        assert torch.equal(getattr(seen[0], name), getattr(seen[1], name)), name


def test_another_face_is_left_out_of_the_mask(faced_base: loading.Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClipSeg, "mask", lambda self, picture, word: torch.ones(picture.size[::-1]))
    photo = photo_of((2, 3), (11, 3))  # their centres are 72 pixels apart, 60 the middle between them
    (left,) = [
        each
        for number in (1, 2)
        for each in face_selection.select_faces(faced_base.spec, [photo], ["us.jpg"], pick=number)
        if each.face.box[0] < 64
    ]
    mask = subject.encode_photos(faced_base, [photo], ["a" * 64], word="face", known=[left]).mask
    assert mask[..., :3].eq(1).all() and mask[..., 4:].eq(0).all()


@pytest.mark.parametrize(
    ("kind", "masked", "recognised", "missing"),
    [
        ("face", True, True, "buffalo_l"),
        ("face", False, False, "CIDAS/clipseg-rd64-refined"),
        ("object", False, False, "CIDAS/clipseg-rd64-refined"),
        ("face", True, False, None),
        ("style", False, False, None),
    ],
)
def test_what_is_missing_is_told_before_anything_is_loaded(
    tiny_base: loading.Base, kind: str, masked: bool, recognised: bool, missing: str | None
) -> None:
    spec = replace(tiny_base.spec, clipseg="CIDAS/clipseg-rd64-refined", faces="buffalo_l")
    if missing is None:
        subject.require_observers(spec, kind, masked=masked, recognised=recognised)
        return
    with pytest.raises(WeightsMissing, match=missing) as raised:
        subject.require_observers(spec, kind, masked=masked, recognised=recognised)
    assert f"pmagic models pull {missing}" in raised.value.next_step
    assert "--recipe reference" in raised.value.next_step


def test_without_an_observer_it_says_which_to_fetch(tiny_base: loading.Base) -> None:
    absent = replace(tiny_base, spec=replace(tiny_base.spec, clip="openai/clip-vit-base-patch32"))
    with pytest.raises(WeightsMissing, match="openai/clip-vit-base-patch32"):
        subject.encode_photos(absent, [tiny.photo()], ["d" * 64], word="face")
