"""The steps above the dynamic stage run once in the UNet, and the pictures are equal to the last bit."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import tiny
import torch

from pmagic.bases import loading
from pmagic.engine import rendering, schedulers, step_cache
from pmagic.engine.recipes import RenderSettings, settings_for
from pmagic.methods import personamagic
from pmagic.persona import Persona

pytest_plugins = ["tiny"]

PROMPT = "a photo of {} as a cowboy"
SETTINGS = RenderSettings(steps=8, guidance=4.0, batch=2)


@pytest.fixture(scope="module")
def pair(tiny_base: loading.Base) -> list[Persona]:
    """Two people of one base."""
    learn_settings = settings_for("reference", {}, **tiny.train_step())
    return [personamagic.learn(tiny_base, tiny.known(tiny_base, (seed,)), learn_settings) for seed in (0, 1)]


@contextmanager
def computed(base: loading.Base) -> Iterator[list[float]]:
    """The timesteps at which the UNet really computes: its first layer is run."""
    calls: list[float] = []
    hook = base.pipeline.unet.conv_in.register_forward_hook(lambda *args: calls.append(0.0))
    try:
        yield calls
    finally:
        hook.remove()


@pytest.mark.parametrize("scheduler", sorted(schedulers.SCHEDULERS))
def test_pictures_are_equal_and_shared_steps_are_computed_once(
    tiny_base: loading.Base, pair: list[Persona], scheduler: str
) -> None:
    settings = replace(SETTINGS, scheduler=scheduler)
    alone = [rendering.render(tiny_base, who, PROMPT, [3, 4], settings) for who in pair]
    assert alone[0][0].tobytes() != alone[1][0].tobytes()
    answers: dict[bytes, torch.Tensor] = {}
    unet = tiny_base.pipeline.unet
    with computed(tiny_base) as calls:
        for who, expected in zip(pair, alone, strict=True):
            with step_cache.cached_first_steps(unet, answers, who.bounds.high):
                drawn = rendering.render(tiny_base, who, PROMPT, [3, 4], settings)
            assert [each.tobytes() for each in drawn] == [each.tobytes() for each in expected]
    times = rendering.timesteps(tiny_base, settings)
    above = sum(t >= pair[0].bounds.high for t in times)
    assert above > 0
    assert len(calls) == 2 * len(times) - above
    assert len(answers) == above


def test_another_seed_prompt_or_guidance_batch_shares_nothing(tiny_base: loading.Base, pair: list[Persona]) -> None:
    answers: dict[bytes, torch.Tensor] = {}
    above = sum(t >= pair[0].bounds.high for t in rendering.timesteps(tiny_base, SETTINGS))
    for count, (prompt, seeds) in enumerate([(PROMPT, [3, 4]), (PROMPT, [3, 5]), ("oil painting of {}", [3, 4])], 1):
        with step_cache.cached_first_steps(tiny_base.pipeline.unet, answers, pair[0].bounds.high):
            rendering.render(tiny_base, pair[0], prompt, seeds, SETTINGS)
        # Within a batch only equal first latents share a call: all others differ from the first step on.
        assert len(answers) == count * above


def test_the_base_is_left_as_it_was(tiny_base: loading.Base, pair: list[Persona]) -> None:
    unet = tiny_base.pipeline.unet
    with pytest.raises(RuntimeError, match="stop"), step_cache.cached_first_steps(unet, {}, 800):
        raise RuntimeError("stop")
    assert "forward" not in vars(unet)
    assert tiny.hooks_of(tiny_base) == []
