"""The UNet in the fast type, mixed as on a CPU or completely as on a GPU, in all parts of the engine that use it."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from pmagic.bases import loading
from pmagic.engine import domain_check, inpainting, mapper, probe, rendering, token_batch, training
from pmagic.engine.recipes import RenderSettings, settings_for
from pmagic.methods import personamagic

pytest_plugins = ["tiny"]


@pytest.fixture(params=[True, False], ids=["mixed", "wholly"])
def fast(request: pytest.FixtureRequest, tiny_folders: dict[str, Path]) -> loading.Base:
    return tiny.open_fast(tiny_folders["sd1"], fp32_norms=request.param)


def test_the_probes_maps_are_nearly_those_of_float32(fast: loading.Base, tiny_base: loading.Base) -> None:
    maps = []
    for base in (fast, tiny_base):
        seen = tiny.known(base)
        settings = settings_for("reference", {}, **tiny.train_step())
        learner = mapper.fresh(token_batch.word_embedding(base, "face"), seen.image_embedding, settings)
        maps.append(probe.attention_map(training.prepare_training(base, seen, settings), learner, 500))
    assert maps[0].dtype == torch.float32 and not torch.equal(*maps)
    assert (maps[0] - maps[1]).norm() / maps[1].norm() < 0.02


def test_a_photograph_is_told_by_nearly_the_same_number(fast: loading.Base, tiny_base: loading.Base) -> None:
    found, exact = (domain_check.denoising_error(base, tiny.photo(1, (64, 64)), "face") for base in (fast, tiny_base))
    assert found != exact and found == pytest.approx(exact, rel=0.05)


def test_a_place_of_a_background_is_drawn_and_nothing_else(fast: loading.Base) -> None:
    background, mask = tiny.photo(4, (32, 32)), Image.new("L", (32, 32), 0)
    mask.paste(255, (4, 4, 20, 24))
    place = inpainting.inpaint_region(background, mask, (tiny.SIZE, tiny.SIZE), 0)
    (drawn,) = rendering.compose(fast, {"": "face"}, "{} in snow", [3], RenderSettings(steps=3), edit=place)
    changed = (np.asarray(drawn) != np.asarray(background)).any(axis=-1)
    assert changed[np.asarray(mask) > 0].mean() > 0.8 and not changed[np.asarray(mask) == 0].any()


def test_compiled_it_learns_nearly_the_same(fast: loading.Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    settings = settings_for("reference", {}, **{**tiny.train_step(), "iterations": 2})
    usual, compiled = (
        personamagic.learn(replace(fast, compiled=compiled), tiny.known(fast), settings).tensors
        for compiled in (False, True)
    )
    assert all(np.allclose(usual[name], compiled[name], rtol=1e-2, atol=1e-4) for name in usual)
    assert tiny.hooks_of(fast) == []


def test_a_step_multiplies_in_tf32_only_where_all_is_fast_and_leaves_the_setting(
    fast: loading.Base, tiny_base: loading.Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    terms = training.loss_terms
    monkeypatch.setattr(
        training, "loss_terms", lambda *given: seen.append(torch.backends.cuda.matmul.allow_tf32) or terms(*given)
    )
    settings = settings_for("reference", {}, **tiny.train_step())
    for base in (fast, tiny_base):
        training.first_step_gradient(base, tiny.known(base), settings, probe.make_mapper)
    assert seen == [not fast.fp32_norms, False]

    def fail(*given: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(training, "loss_terms", fail)
    with pytest.raises(RuntimeError):
        training.first_step_gradient(fast, tiny.known(fast), settings, probe.make_mapper)
    assert not torch.backends.cuda.matmul.allow_tf32
