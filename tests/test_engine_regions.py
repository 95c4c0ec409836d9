"""Regions: each part of the picture reads its own text, exactly, and a text that is everywhere changes nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from pmagic.bases import loading
from pmagic.engine import composing, regions, rendering
from pmagic.engine.attention import cross_attentions
from pmagic.engine.hooks import installed_hooks
from pmagic.engine.recipes import RenderSettings
from pmagic.engine.regions import region_weights, regional_attention

pytest_plugins = ["tiny"]

LEFT, RIGHT, WHOLE = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 1.0)
FEW = RenderSettings(steps=4, guidance=4.0)


@contextmanager
def answers(base: loading.Base) -> Iterator[list[Tensor]]:
    """What every cross-attention answers, in order."""
    found: list[Tensor] = []
    layers = cross_attentions(base.pipeline.unet).values()
    with installed_hooks(after=[(each, lambda module, args, output: found.append(output)) for each in layers]):
        yield found


@torch.no_grad()
def looked(base: loading.Base, texts: list[Tensor], boxes: list[regions.Box]) -> tuple[Tensor, list[Tensor]]:
    """The predicted noise and every cross-attention's answer for texts (1, S, w) confined to boxes."""
    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    share = region_weights(boxes, (8, 8)) if boxes else None
    with answers(base) as found, regional_attention(base.pipeline.unet, share):
        noise = base.pipeline.unet(noisy, torch.tensor(500), encoder_hidden_states=torch.cat(texts, dim=1)).sample
    return noise, found


@pytest.fixture(scope="module")
def texts() -> list[Tensor]:
    return list(torch.randn(4, 1, tiny.LENGTH, tiny.WIDTH, generator=torch.Generator().manual_seed(1)))


def test_shares_are_those_of_the_cells() -> None:
    found = region_weights([LEFT, RIGHT], (2, 4))
    assert found.tolist() == [[[1, 1, 0, 0]] * 2, [[0, 0, 1, 1]] * 2, [[0, 0, 0, 0]] * 2]
    quarter = region_weights([(0.25, 0.5, 0.5, 1.0)], (2, 2))  # half of the width of one cell, all of its height
    assert quarter.tolist() == [[[0, 0], [0.5, 0]], [[1, 1], [0.5, 1]]]
    overlapping = region_weights([WHOLE, RIGHT], (1, 2))
    assert overlapping.tolist() == [[[1, 0.5]], [[0, 0.5]], [[0, 0]]]
    thirds = region_weights([(0, 0, 1 / 3, 1), (1 / 3, 0, 2 / 3, 1), (2 / 3, 0, 1, 1)], (8, 8))
    torch.testing.assert_close(thirds.sum(dim=0), torch.ones(8, 8))


def test_the_same_text_everywhere_is_that_text(tiny_base: loading.Base, texts: list[Tensor]) -> None:
    plain, _ = looked(tiny_base, texts[:1], [])
    again, _ = looked(tiny_base, texts[:1] * 3, [(0.1, 0.0, 0.4, 0.7), (0.55, 0.2, 0.95, 1.0)])
    torch.testing.assert_close(again, plain, atol=2e-6, rtol=0)
    assert tiny.hooks_of(tiny_base) == []


def test_nothing_of_one_text_reaches_the_region_of_another(tiny_base: loading.Base, texts: list[Tensor]) -> None:
    _, first = looked(tiny_base, texts[:3], [LEFT, RIGHT])
    _, second = looked(tiny_base, [texts[0], texts[3], texts[2]], [LEFT, RIGHT])
    one, other = (each[0].unflatten(1, (8, 8)) for each in (first, second))  # the first layer: its queries are the same
    assert torch.equal(one[:, :, :4], other[:, :, :4])
    assert (one[:, :, 4:] != other[:, :, 4:]).any(dim=-1).all()
    _, alone = looked(tiny_base, texts[:1], [])
    torch.testing.assert_close(one[:, :, :4], alone[0].unflatten(1, (8, 8))[:, :, :4], atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(32, 32), (40, 24)])
def test_a_region_as_large_as_the_picture_is_that_one_alone(tiny_base: loading.Base, size: tuple[int, int]) -> None:
    settings = replace(FEW, size=size)
    cast = {"a": "face", "b": "dog"}
    (whole,) = rendering.compose(tiny_base, cast, "{a} with {b}", [1], settings, regions={"a": WHOLE})
    (written,) = rendering.compose(tiny_base, {"b": "dog"}, "face with {b}", [1], settings)
    assert np.abs(np.asarray(whole, dtype=int) - np.asarray(written, dtype=int)).max() <= 1


def test_who_stands_in_a_region_stands_for_all_who_have_one(tiny_base: loading.Base) -> None:
    cast = {"a": "cowboy", "b": "dog", "style": "oil"}
    with composing.apply_personas(tiny_base, cast) as wordings:
        words = {"a": "face", "b": "man", "style": "painting"}
        read = composing.regional_prompts(wordings, words, ["a", "b"])
        said = [{name: wording([1.0])[1.0] for name, wording in each.items()} for each in read]
    assert said == [
        {"a": "cowboy", "b": "cowboy", "style": "oil"},
        {"a": "dog", "b": "dog", "style": "oil"},
        {"a": "face", "b": "man", "style": "oil"},
    ]


@pytest.mark.parametrize("mixed", [True, False])
def test_regions_in_the_fast_type_and_several_at_once(tiny_folders: dict[str, Path], mixed: bool) -> None:
    fast = tiny.open_fast(tiny_folders["sd1"], fp32_norms=mixed)
    both = {"a": LEFT, "b": RIGHT}
    words = {"a": "face", "b": "dog"}
    drawn = rendering.compose(fast, words, "{a} with {b}", [1, 2], replace(FEW, batch=2), regions=both)
    assert len(drawn) == 2
    swapped = rendering.compose(fast, words, "{a} with {b}", [1, 2], FEW, regions={"a": RIGHT, "b": LEFT})
    assert drawn[0].tobytes() != swapped[0].tobytes()
