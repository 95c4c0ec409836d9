"""Drawing: the stock pipeline's picture to the last bit where nothing was learned, and each picture its own seed's."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from pmagic.bases import loading
from pmagic.engine import prompts, rendering, schedulers, token_batch
from pmagic.engine.recipes import RenderSettings, render_settings_for, settings_for
from pmagic.errors import Incompatible, NumericFailure, UsageError
from pmagic.methods import personamagic, textual_inversion
from pmagic.persona import Persona, StageBounds

pytest_plugins = ["tiny"]

FEW = RenderSettings(steps=6, guidance=4.0, negative="man with dog")
PROMPT = "a photo of {} as a cowboy"


@pytest.fixture(scope="module")
def persona(tiny_base: loading.Base) -> Persona:
    return personamagic.learn(tiny_base, tiny.known(tiny_base), settings_for("reference", {}, **tiny.train_step()))


@pytest.fixture(scope="module")
def unlearned(persona: Persona) -> Persona:
    """The persona with its outputs at zero: every dynamic token is the word, and there is no residual."""
    zero = {name: np.zeros_like(array) for name, array in persona.tensors.items() if "_out." in name}
    return replace(persona, tensors={**persona.tensors, **zero}, bounds=StageBounds(0, 1000))


def stock(base: loading.Base, prompt: str, seed: int, settings: RenderSettings) -> Image.Image:
    """What diffusers draws by itself."""
    from diffusers import StableDiffusionPipeline

    scheduler = schedulers.make(settings.scheduler, base.pipeline.scheduler.config)
    parts = {**base.pipeline.components, "scheduler": scheduler}
    pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt,
        negative_prompt=settings.negative,
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance,
        generator=torch.Generator().manual_seed(seed),
    ).images[0]


def same(left: Image.Image, right: Image.Image) -> bool:
    return left.size == right.size and left.tobytes() == right.tobytes()


@contextmanager
def unet_rows(base: loading.Base) -> Iterator[list[int]]:
    """The batch sizes the UNet is called with."""
    rows: list[int] = []
    hook = base.pipeline.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    try:
        yield rows
    finally:
        hook.remove()


@pytest.mark.parametrize("layout", ["sd1", "sd2", "fp16"])
@pytest.mark.parametrize("scheduler", sorted(schedulers.SCHEDULERS))
def test_the_plain_word_is_the_stock_picture(tiny_folders: dict[str, Path], layout: str, scheduler: str) -> None:
    base = tiny.open_base(tiny_folders[layout])
    settings = replace(FEW, scheduler=scheduler)
    (drawn,) = rendering.render(base, None, PROMPT, [5], settings, word="face")
    assert same(drawn, stock(base, "a photo of face as a cowboy", 5, settings))


@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_an_unlearned_persona_is_the_stock_picture(
    tiny_base: loading.Base, unlearned: Persona, guidance: float
) -> None:
    """Dynamic tokens equal to the word and a residual of zero: not one bit may differ from the word written out."""
    settings = replace(FEW, guidance=guidance)
    (drawn,) = rendering.render(tiny_base, unlearned, PROMPT, [5], settings)
    assert same(drawn, stock(tiny_base, "a photo of face face face face as a cowboy", 5, settings))


def test_a_learned_persona_draws_another_picture(tiny_base: loading.Base, persona: Persona) -> None:
    whole = replace(persona, bounds=StageBounds(0, 1000))
    (drawn,) = rendering.render(tiny_base, whole, PROMPT, [5], FEW)
    assert not same(drawn, stock(tiny_base, "a photo of face face face face as a cowboy", 5, FEW))


@pytest.mark.parametrize("scheduler", sorted(schedulers.SCHEDULERS))
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_each_stage_reads_its_own_condition(
    tiny_base: loading.Base, persona: Persona, scheduler: str, steps: int
) -> None:
    settings = replace(FEW, scheduler=scheduler, steps=steps)
    with personamagic.apply(tiny_base, [persona]) as (wording,):
        script = rendering.encode_prompt(tiny_base, {"": wording}, PROMPT, settings)
        word = token_batch.encode_plain(tiny_base, prompts.substitute_names(PROMPT, {"": "face"})).pack()[0]
    dynamic = [t for t in script.rows if 400 <= t < 800]
    for t, row in script.rows.items():
        assert torch.equal(row, word) == (t >= 800)
        if t < 400 and dynamic:
            assert torch.equal(row, script.rows[min(dynamic)])
    (drawn,) = rendering.render(tiny_base, persona, PROMPT, [1], settings)
    assert drawn.size == (tiny.SIZE, tiny.SIZE)


def test_picture_k_is_the_same_alone_and_among_others(tiny_base: loading.Base, persona: Persona) -> None:
    together = rendering.render(tiny_base, persona, PROMPT, [7, 8, 9], FEW)
    for seed, drawn in zip([7, 8, 9], together, strict=True):
        assert same(drawn, rendering.render(tiny_base, persona, PROMPT, [seed], FEW)[0])
    assert not same(together[0], together[1])


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_timesteps_stay_on_the_cpu_whatever_the_device(tiny_base: loading.Base, name: str) -> None:
    """A GPU is not waited for at each step. "meta" stands for it, a device whose numbers cannot be read."""
    scheduler = schedulers.make(name, tiny_base.pipeline.scheduler.config)
    scheduler.set_timesteps(5, device=torch.device("meta"))
    expected = schedulers.make(name, tiny_base.pipeline.scheduler.config)
    expected.set_timesteps(5)
    assert scheduler.timesteps.tolist() == expected.timesteps.tolist()


def test_several_at_once_are_the_same_pictures_but_for_rounding(tiny_base: loading.Base, persona: Persona) -> None:
    alone = rendering.render(tiny_base, persona, PROMPT, [7, 8, 9], FEW)
    with unet_rows(tiny_base) as rows:
        at_once = rendering.render(tiny_base, persona, PROMPT, [7, 8, 9], replace(FEW, batch=2))
    assert rows == [4] * 6 + [2] * 6
    for left, right in zip(alone, at_once, strict=True):
        assert np.abs(np.asarray(left, dtype=int) - np.asarray(right, dtype=int)).max() <= 1


def test_the_base_is_as_it_was_after_a_picture_and_after_an_error(tiny_base: loading.Base, persona: Persona) -> None:
    before = loading.weights_hash(tiny_base.pipeline)
    scheduler = tiny_base.pipeline.scheduler
    rendering.render(tiny_base, persona, PROMPT, [0], FEW)
    assert tiny.hooks_of(tiny_base) == []

    def stop(done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        rendering.render(tiny_base, persona, PROMPT, [0], FEW, on_step=stop)
    assert tiny.hooks_of(tiny_base) == []
    assert loading.weights_hash(tiny_base.pipeline) == before
    assert tiny_base.pipeline.scheduler is scheduler


def test_progress_counts_every_call(tiny_base: loading.Base, persona: Persona) -> None:
    seen: list[tuple[int, int]] = []
    settings = replace(FEW, steps=3, scheduler="pndm")
    rendering.render(tiny_base, persona, PROMPT, [0, 1], settings, on_step=lambda *each: seen.append(each))
    calls = len(rendering.timesteps(tiny_base, settings))
    assert seen == [(done, 2 * calls) for done in range(1, 2 * calls + 1)]


def test_text_is_encoded_in_three_calls_whatever_the_steps(tiny_base: loading.Base, persona: Persona) -> None:
    rows: list[int] = []
    hook = tiny_base.pipeline.text_encoder.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    try:
        rendering.render(tiny_base, persona, PROMPT, [0, 1], replace(FEW, steps=20))
    finally:
        hook.remove()
    assert sorted(rows) == [1, 1, 8]  # the word, the negative prompt, and 8 of 20 timesteps in the dynamic stage


@pytest.mark.parametrize("size", [(40, 24), (16, 64)])
def test_sizes(tiny_base: loading.Base, persona: Persona, size: tuple[int, int]) -> None:
    (drawn,) = rendering.render(tiny_base, persona, PROMPT, [0], replace(FEW, size=size))
    assert drawn.size == size


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": 0}, "steps must be from 1"),
        ({"size": (64, 60)}, "multiples of 8, not 60"),
        ({"scheduler": "magic"}, "no scheduler 'magic'"),
        ({"guidance": float("nan")}, "guidance must be"),
        ({"batch": 0}, "batch must be"),
    ],
)
def test_settings_refuse_what_cannot_be_drawn(change: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        render_settings_for("reference", {}, **change)


@pytest.mark.parametrize(
    ("prompt", "seeds", "said"),
    [
        ("a photo of a cowboy", [0], "has no {}"),
        ("snow " * 80 + "{}", [0], "the name stands beyond the 75"),
        (PROMPT, [], "no picture"),
        (PROMPT, [-1], "a seed must be"),
        (PROMPT, [2**32 + 5], "a seed must be"),  # on a CPU the noise of 5 once more
    ],
)
def test_prompts_and_seeds_that_cannot_be_drawn(
    tiny_base: loading.Base, persona: Persona, prompt: str, seeds: list[int], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        rendering.render(tiny_base, persona, prompt, seeds, FEW)


def test_without_persona_and_word_nothing_stands_for_the_name(tiny_base: loading.Base) -> None:
    with pytest.raises(UsageError, match="a word must stand for the name"):
        rendering.render(tiny_base, None, PROMPT, [0], FEW)


def test_a_persona_of_another_base_is_refused(tiny_folders: dict[str, Path], persona: Persona) -> None:
    with pytest.raises(Incompatible, match="was learned on"):
        rendering.render(tiny.open_base(tiny_folders["sd2"]), persona, PROMPT, [0], FEW)


def test_a_persona_of_another_method_is_refused(tiny_base: loading.Base, persona: Persona) -> None:
    for method in (personamagic, textual_inversion):
        with (
            pytest.raises(Incompatible, match="tensors are not those"),
            method.apply(
                tiny_base, [replace(persona, tensors={"image_embedding": persona.tensors["image_embedding"]})]
            ),
        ):
            pass


def test_numbers_that_are_not_finite_are_no_black_picture(tiny_base: loading.Base, persona: Persona) -> None:
    name = "learner.dynamic_out.bias"
    broken = {**persona.tensors, name: np.full_like(persona.tensors[name], np.inf)}
    with pytest.raises(NumericFailure, match="NaN or infinity"):
        rendering.render(tiny_base, replace(persona, tensors=broken), PROMPT, [0], FEW)
