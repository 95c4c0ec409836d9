"""Editing a place of a background: outside the mask not a bit changes, and under a full mask it is plain rendering."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from pmagic.bases import loading
from pmagic.engine import inpainting, rendering, schedulers, subject
from pmagic.engine.inpainting import InpaintRegion, frame, inpaint_region
from pmagic.engine.recipes import RenderSettings, settings_for
from pmagic.errors import PhotoRefused, UsageError
from pmagic.methods import personamagic
from pmagic.persona import Persona

pytest_plugins = ["tiny"]

FEW = RenderSettings(steps=4, guidance=4.0, negative="man with dog")
PROMPT = "{alice} as cowboy"
SIZE = (tiny.SIZE, tiny.SIZE)


@pytest.fixture(scope="module")
def personas(tiny_base: loading.Base) -> dict[str, Persona]:
    learned = personamagic.learn(tiny_base, tiny.known(tiny_base), settings_for("reference", {}, **tiny.train_step()))
    return {"alice": learned}


def masked(size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", size, 0)
    for box in boxes:
        mask.paste(255, box)
    return mask


def drawn(base: loading.Base, personas: dict[str, Persona], place: InpaintRegion, **changes: object) -> np.ndarray:
    (picture,) = rendering.compose(base, personas, PROMPT, [3], replace(FEW, **changes), edit=place)
    return np.asarray(picture)


@pytest.mark.parametrize("size", [(100, 60), (32, 32), (20, 50), (33, 200)])
@pytest.mark.parametrize("soft_edge", [0, 3])
def test_outside_the_mask_the_background_is_untouched(
    tiny_base: loading.Base, personas: dict[str, Persona], size: tuple[int, int], soft_edge: int
) -> None:
    background = tiny.photo(4, size)
    mask = masked(size, (2, 3, 11, 14), (12, 20, 18, 28))
    result = drawn(tiny_base, personas, inpaint_region(background, mask, SIZE, soft_edge))
    before, marked = np.asarray(background), np.asarray(mask) > 0
    assert result.shape == before.shape
    assert np.array_equal(result[~marked], before[~marked])
    assert (result[marked] != before[marked]).any(axis=-1).mean() > 0.8


@pytest.mark.parametrize("scheduler", sorted(schedulers.SCHEDULERS))
@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_a_full_mask_is_plain_rendering(
    tiny_base: loading.Base, personas: dict[str, Persona], scheduler: str, guidance: float
) -> None:
    settings = replace(FEW, scheduler=scheduler, guidance=guidance)
    place = inpaint_region(tiny.photo(4, SIZE), Image.new("L", SIZE, 255), SIZE)
    (localised,) = rendering.compose(tiny_base, personas, PROMPT, [3], settings, edit=place)
    (plain,) = rendering.compose(tiny_base, personas, PROMPT, [3], settings)
    assert localised.tobytes() == plain.tobytes()


def test_the_rest_of_the_frame_is_seen_while_drawing(tiny_base: loading.Base, personas: dict[str, Persona]) -> None:
    """The same seed and mask in another scene draws another picture: the noise around it is the scene's."""
    mask = masked(SIZE, (8, 8, 24, 24))
    one, other = (drawn(tiny_base, personas, inpaint_region(tiny.photo(seed, SIZE), mask, SIZE)) for seed in (4, 5))
    assert (one[8:24, 8:24] != other[8:24, 8:24]).any()


def test_picture_k_is_the_same_alone_and_among_others(tiny_base: loading.Base, personas: dict[str, Persona]) -> None:
    place = inpaint_region(tiny.photo(4, SIZE), masked(SIZE, (8, 8, 24, 24)), SIZE)
    both = rendering.compose(tiny_base, personas, PROMPT, [3, 4], FEW, edit=place)
    assert np.array_equal(np.asarray(both[0]), drawn(tiny_base, personas, place))
    assert both[0].tobytes() != both[1].tobytes()
    at_once = rendering.compose(tiny_base, personas, PROMPT, [3, 4], replace(FEW, batch=2), edit=place)
    for left, right in zip(both, at_once, strict=True):
        assert np.abs(np.asarray(left, dtype=int) - np.asarray(right, dtype=int)).max() <= 1


def test_a_line_thinner_than_a_cell_is_drawn(tiny_base: loading.Base, personas: dict[str, Persona]) -> None:
    place = inpaint_region(tiny.photo(4, SIZE), masked(SIZE, (0, 13, 32, 14)), SIZE)
    assert place.frame == (0, 0, 32, 32)
    cells = place.inputs(tiny_base, *SIZE)["mask_image"][0, 0]
    assert cells.unique(dim=0).shape[0] == 2 and cells[12:16].eq(1).all() and cells.sum() == 4 * 32


def test_the_base_is_as_it_was_after_an_error(tiny_base: loading.Base, personas: dict[str, Persona]) -> None:
    before = loading.weights_hash(tiny_base.pipeline)

    def stop(done: int, total: int) -> None:
        raise InterruptedError

    place = inpaint_region(tiny.photo(4, SIZE), masked(SIZE, (8, 8, 24, 24)), SIZE)
    with pytest.raises(InterruptedError):
        rendering.compose(tiny_base, personas, PROMPT, [3], FEW, edit=place, on_step=stop)
    drawn(tiny_base, personas, place)
    assert tiny.hooks_of(tiny_base) == []
    assert loading.weights_hash(tiny_base.pipeline) == before


@pytest.mark.parametrize(
    ("marked", "whole", "size", "expected"),
    [
        ((0, 0, 64, 64), (64, 64), (64, 64), (0, 0, 64, 64)),  # everything
        ((40, 40, 80, 60), (200, 200), (64, 64), (30, 20, 90, 80)),  # 10 pixels more on each side of the longer one
        ((0, 0, 40, 40), (200, 200), (64, 64), (0, 0, 50, 50)),  # a corner of the picture
        ((160, 100, 200, 120), (200, 200), (64, 64), (150, 85, 200, 135)),  # its right border
        ((0, 0, 20, 100), (20, 100), (64, 64), (-40, 0, 60, 100)),  # higher than the picture is wide
        ((40, 40, 80, 80), (200, 200), (64, 32), (0, 30, 120, 90)),  # wide pictures
    ],
)
def test_the_frame(
    marked: subject.Frame, whole: tuple[int, int], size: tuple[int, int], expected: subject.Frame
) -> None:
    assert frame(marked, whole, size) == expected


def test_soft_edges_fade_inwards() -> None:
    place = inpaint_region(tiny.photo(4, (20, 9)), masked((20, 9), (10, 0, 20, 9)), SIZE, soft_edge=3)
    assert np.asarray(place.opacity)[4].tolist() == [0] * 10 + [64, 128, 191] + [255] * 7  # no edge at the border
    sharp = inpaint_region(tiny.photo(4, (20, 9)), masked((20, 9), (10, 0, 20, 9)), SIZE)
    assert np.array_equal(np.asarray(sharp.opacity), np.asarray(sharp.mask))


def test_the_widest_soft_edge_is_told_and_can_be_had() -> None:
    mask = masked((40, 48), (9, 9, 20, 40))
    with pytest.raises(UsageError) as refused:
        inpaint_region(tiny.photo(), mask, SIZE, soft_edge=100)
    assert refused.value.next_step == "give at most 5"
    assert np.asarray(inpaint_region(tiny.photo(), mask, SIZE, soft_edge=5).opacity).max() == 255
    whole = inpaint_region(tiny.photo(), Image.new("L", (40, 48), 255), SIZE, soft_edge=100)  # which has no edge
    assert np.asarray(whole.opacity).min() == 255


def test_a_preview_shows_the_mask_and_the_frame() -> None:
    background = Image.new("RGB", (60, 60), (0, 0, 0))
    shown = np.asarray(inpaint_region(background, masked((60, 60), (20, 20, 40, 40)), SIZE).preview())
    assert (shown[20:40, 20:40] == 0).all()
    assert shown[15, 15:45].tolist() == [[255, 0, 0]] * 30  # the frame is 15 to 45
    assert shown[5, 5].tolist() == [178, 178, 178]


@pytest.mark.parametrize(
    ("mask", "soft_edge", "kind", "said"),
    [
        (masked((40, 48)), 0, PhotoRefused, "the mask is empty"),
        (masked((40, 40), (0, 0, 9, 9)), 0, UsageError, "the mask is 40 x 40, the background is 40 x 48"),
        (masked((40, 48), (0, 0, 9, 9)), -1, UsageError, "a soft edge must be 0 pixels or more, not -1"),
        (masked((40, 48), (9, 9, 20, 40)), 6, UsageError, "a soft edge of 6 pixels is wider than the mask"),
    ],
)
def test_masks_that_cannot_be_used(mask: Image.Image, soft_edge: int, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        inpaint_region(tiny.photo(), mask, SIZE, soft_edge)


def test_a_text_marks_where_it_is_at_least_half_as_probable_as_anywhere(
    tiny_base: loading.Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tiny.photo(4, (60, 50))
    found = subject.segmenter(tiny_base.spec).mask(picture, "snow hat")
    marked = np.asarray(inpainting.text_mask(tiny_base.spec, picture, " The snow hat"))
    assert np.array_equal(marked == 255, (found >= found.max() / 2).numpy())
    monkeypatch.setattr(subject, "MIN_MASK_PROBABILITY", 1.01)
    with pytest.raises(PhotoRefused, match="'hat' is not found in the background: nowhere is it more than"):
        inpainting.text_mask(tiny_base.spec, picture, "hat")
    assert torch.is_tensor(found)


@pytest.mark.parametrize("text", ["", " ", "the", "An ", "the the", "?", "a !"])
def test_a_text_that_says_nothing_marks_nothing(tiny_base: loading.Base, text: str) -> None:
    with pytest.raises(UsageError, match="does not say what to find"):
        inpainting.text_mask(tiny_base.spec, tiny.photo(), text)
