"""The subject: what learning sees of a photo."""

from dataclasses import replace

import pytest
import tiny
import torch
from PIL import Image

from pmagic.bases import loading
from pmagic.engine import subject
from pmagic.errors import PhotoRefused, UsageProblem, WeightsMissing

pytest_plugins = ["tiny"]


def test_shapes_and_ranges(tiny_base: loading.Base) -> None:
    found = subject.observe(tiny_base, [tiny.photo(0), tiny.photo(1)], ["a" * 64, "b" * 64], word="face")
    assert found.mean.shape == found.std.shape == (2, 4, 8, 8)
    assert found.std.min() > 0
    assert found.mask.shape == (2, 1, 8, 8) and found.mask.eq(1).all()
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
    plain, seen = (subject.observe(tiny_base, [each], ["c" * 64], word="face") for each in (wide, marked))
    assert torch.equal(plain.mean, seen.mean)
    assert not torch.equal(plain.image_embedding, seen.image_embedding)


def test_what_cannot_be_learned_from(tiny_base: loading.Base) -> None:
    photo = tiny.photo()
    with pytest.raises(UsageProblem, match="no photo"):
        subject.observe(tiny_base, [], [], word="face")
    with pytest.raises(UsageProblem, match="one mask cannot serve"):
        subject.observe(tiny_base, [photo, photo], ["", ""], word="face", mask=Image.new("L", photo.size, 255))
    with pytest.raises(PhotoRefused, match="the mask is empty"):
        subject.observe(tiny_base, [photo], [""], word="face", mask=Image.new("L", photo.size, 0))
    with pytest.raises(UsageProblem, match="must be a single one"):
        subject.observe(tiny_base, [photo], [""], word="grandmother")


def test_without_an_observer_it_says_which_to_fetch(tiny_base: loading.Base) -> None:
    absent = replace(tiny_base, card=replace(tiny_base.card, clip="openai/clip-vit-base-patch32"))
    with pytest.raises(WeightsMissing, match="openai/clip-vit-base-patch32"):
        subject.observe(absent, [tiny.photo()], ["d" * 64], word="face")


def test_clip_scores_are_cosines_with_a_floor(tiny_base: loading.Base) -> None:
    clip = subject.observer(tiny_base)
    pictures = [tiny.photo(0), tiny.photo(1, (64, 20))]
    cosines = clip.text_similarity(pictures, ["a photo of a face", "a dog"])
    assert cosines.shape == (2,) and cosines.abs().max() <= 1
    assert clip.clip_score(pictures, ["a photo of a face", "a dog"]).tolist() == pytest.approx(
        [2.5 * max(0.0, each) for each in cosines.tolist()]
    )
