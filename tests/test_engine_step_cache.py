"""The steps above the dynamic stage run once in the UNet, and the pictures are equal to the last bit."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import adapter_samples
import pytest
import tiny
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from pmagic.adapters import ip_adapter
from pmagic.bases import adapter_files, loading
from pmagic.engine import rendering, schedulers, step_cache
from pmagic.engine.hooks import exchanged_parameters, installed_hooks
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
    with installed_hooks(after=[(base.pipeline.unet.conv_in, lambda *args: calls.append(0.0))]):
        yield calls


@pytest.mark.parametrize("scheduler", sorted(schedulers.SCHEDULERS))
def test_pictures_are_equal_and_shared_steps_are_computed_once(
    tiny_base: loading.Base, pair: list[Persona], scheduler: str
) -> None:
    settings = replace(SETTINGS, scheduler=scheduler)
    alone = [rendering.render(tiny_base, who, PROMPT, [3, 4], settings) for who in pair]
    assert alone[0][0].tobytes() != alone[1][0].tobytes()
    answers = step_cache.UNetCache()
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
    answers = step_cache.UNetCache()
    above = sum(t >= pair[0].bounds.high for t in rendering.timesteps(tiny_base, SETTINGS))
    for count, (prompt, seeds) in enumerate([(PROMPT, [3, 4]), (PROMPT, [3, 5]), ("oil painting of {}", [3, 4])], 1):
        with step_cache.cached_first_steps(tiny_base.pipeline.unet, answers, pair[0].bounds.high):
            rendering.render(tiny_base, pair[0], prompt, seeds, SETTINGS)
        # Within a batch only equal first latents share a call: all others differ from the first step on.
        assert len(answers) == count * above


def test_the_base_is_left_as_it_was(tiny_base: loading.Base, pair: list[Persona]) -> None:
    unet = tiny_base.pipeline.unet
    with pytest.raises(RuntimeError, match="stop"), step_cache.cached_first_steps(unet, step_cache.UNetCache(), 800):
        raise RuntimeError("stop")
    assert "forward" not in vars(unet)
    assert tiny.hooks_of(tiny_base) == []


@pytest.fixture
def unet() -> UNet2DConditionModel:
    """Tiny, of SDXL's kind: it is given the picture's size and a pooled text, too."""
    torch.manual_seed(3)
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=12,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2, addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 5,
    ).requires_grad_(False).eval()  # fmt: skip


def given(**others: Any) -> dict[str, Any]:
    source = torch.Generator().manual_seed(4)
    latents, text, pooled = (torch.randn(shape, generator=source) for shape in ((2, 4, 8, 8), (2, 7, 12), (2, 5)))
    sizes = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]).expand(2, -1)
    usual = {
        "sample": latents,
        "timestep": torch.tensor(900),
        "encoder_hidden_states": text,
        "added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes},
    }
    return {**usual, **others}


def ask(unet: nn.Module, arguments: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        return unet(**arguments, return_dict=False)[0]


TEXT = given()["encoder_hidden_states"]
POOLED, SIZES = given()["added_cond_kwargs"].values()
RESIDUALS = tuple(torch.randn(2, *shape) for shape in ((8, 8, 8), (8, 8, 8), (8, 4, 4), (16, 4, 4)))


@pytest.mark.parametrize(
    "other",
    [
        {"sample": given()["sample"] + 1},
        {"timestep": torch.tensor(901)},
        {"encoder_hidden_states": 2 * TEXT},
        {"encoder_attention_mask": torch.arange(7).expand(2, -1) < 3},
        {"added_cond_kwargs": {"text_embeds": POOLED + 1, "time_ids": SIZES}},
        {"added_cond_kwargs": {"text_embeds": POOLED, "time_ids": SIZES + 64}},
        {"down_block_additional_residuals": RESIDUALS, "mid_block_additional_residual": RESIDUALS[-1]},
    ],
    ids=lambda other: "-".join(other),
)
def test_all_that_the_unet_is_given_belongs_to_the_question(unet: UNet2DConditionModel, other: dict[str, Any]) -> None:
    cache, usual, changed = step_cache.UNetCache(), given(), given(**other)
    expected = [ask(unet, usual), ask(unet, changed)]
    assert not torch.equal(*expected)
    with step_cache.cached_first_steps(unet, cache, 800):
        for _ in range(2):
            assert torch.equal(ask(unet, usual), expected[0])
            assert torch.equal(ask(unet, changed), expected[1])
    assert len(cache) == 2


def test_equal_questions_are_one_however_they_are_put(unet: UNet2DConditionModel) -> None:
    cache, usual = step_cache.UNetCache(), given()
    expected = ask(unet, usual)
    first = [usual.pop(name) for name in ("sample", "timestep", "encoder_hidden_states")]
    with torch.no_grad(), step_cache.cached_first_steps(unet, cache, 800):
        with step_cache.cached_first_steps(unet, step_cache.UNetCache(), 800):  # also one inside of the other
            assert torch.equal(unet(*first, **usual, return_dict=False)[0], expected)
        assert torch.equal(unet(*first, class_labels=None, **usual).sample, expected)
        assert torch.equal(unet(*(each.clone() for each in first), **usual, return_dict=False)[0], expected)
    assert len(cache) == 1


def test_what_is_returned_may_be_written_to(unet: UNet2DConditionModel) -> None:
    with step_cache.cached_first_steps(unet, step_cache.UNetCache(), 800):
        first = ask(unet, given())
        kept = first.clone()
        first.zero_()
        ask(unet, given()).zero_()
        assert torch.equal(ask(unet, given()), kept)


def test_an_argument_that_cannot_be_compared_is_refused(unet: UNet2DConditionModel) -> None:
    other = given(cross_attention_kwargs={"ip_adapter_masks": object()})
    with (
        step_cache.cached_first_steps(unet, step_cache.UNetCache(), 800),
        pytest.raises(TypeError, match="cannot compare an argument of type object"),
    ):
        ask(unet, other)


def test_below_the_shared_steps_and_with_a_gradient_nothing_is_kept(unet: UNet2DConditionModel) -> None:
    cache = step_cache.UNetCache()
    with step_cache.cached_first_steps(unet, cache, 800):
        ask(unet, given(timestep=torch.tensor([900, 799])))
        text = given()["encoder_hidden_states"].requires_grad_()
        for _ in range(2):
            answer = unet(**given(encoder_hidden_states=text), return_dict=False)[0]
            assert torch.autograd.grad(answer.sum(), text)[0].abs().max() > 0
    assert len(cache) == 0


def test_exchanged_weights_have_answers_of_their_own_and_the_old_ones_come_back(unet: UNet2DConditionModel) -> None:
    cache, name = step_cache.UNetCache(), "mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight"
    own = dict(unet.named_parameters())[name]
    other = {name: nn.Parameter(own.detach() * 2, requires_grad=False)}
    calls: list[None] = []
    usual = ask(unet, given())
    with (
        installed_hooks(after=[(unet.conv_in, lambda *args: calls.append(None))]),
        step_cache.cached_first_steps(unet, cache, 800),
    ):
        assert torch.equal(ask(unet, given()), usual)
        with exchanged_parameters(unet, other):
            first = ask(unet, given())
            assert torch.equal(ask(unet, given()), first)
        assert not torch.equal(first, usual)
        assert torch.equal(ask(unet, given()), usual)
        with exchanged_parameters(unet, other):
            assert torch.equal(ask(unet, given()), first)
    assert len(calls) == len(cache) == 2


def test_weights_written_to_give_no_old_answer(unet: UNet2DConditionModel) -> None:
    cache = step_cache.UNetCache()
    written = (
        lambda: unet.conv_out.bias.add_(1),
        lambda: unet.load_state_dict({**unet.state_dict(), "conv_out.bias": torch.ones(4)}),
        lambda: unet.load_state_dict({**unet.state_dict(), "conv_out.bias": torch.zeros(4)}, assign=True),
        lambda: setattr(unet, "conv_out", nn.Conv2d(8, 4, 3, padding=1)),  # as adapters put layers in
        lambda: unet.half().float(),
    )
    answers = []
    with torch.no_grad(), step_cache.cached_first_steps(unet, cache, 800):
        answers.append(ask(unet, given()))
        for write in written:
            write()
            answers.append(ask(unet, given()))
            assert torch.equal(answers[-1], type(unet).forward(unet, **given(), return_dict=False)[0])
    assert all(not torch.equal(one, other) for one, other in itertools.pairwise(answers))


def test_weights_at_the_address_of_freed_ones_give_no_old_answer(unet: UNet2DConditionModel) -> None:
    """Person after person has weights of its own, and each has them in the same memory."""
    cache, addresses, memory = step_cache.UNetCache(), set(), bytearray(16)
    ask(unet, given())
    with step_cache.cached_first_steps(unet, cache, 800):
        ask(unet, given())
        for k in range(8):
            weights = {"conv_out.bias": torch.frombuffer(memory, dtype=torch.float32).fill_(k)}
            addresses.add(weights["conv_out.bias"].data_ptr())
            with exchanged_parameters(unet, weights):
                bare = type(unet).forward(unet, **given(), return_dict=False)[0]
                assert torch.equal(ask(unet, given()), bare)
            del weights
        assert len(cache) <= 2  # the base's own, and those of the last person until others come
    assert len(addresses) == 1


def test_another_look_or_scale_is_another_answer(tiny_base: loading.Base, tmp_path: Path) -> None:
    """What an adapter adds is no argument of the UNet."""
    files = adapter_files.find(str(adapter_samples.build_ip_adapter(tmp_path, tiny_base.pipeline.unet)))
    looks = ip_adapter.encode(tiny_base, files, {"a": [tiny.photo(1)], "b": [tiny.photo(2)]})
    answers = step_cache.UNetCache()

    def draw(name: str, scale: float, cached: bool) -> bytes:
        stack = ExitStack()
        with stack:
            if cached:
                stack.enter_context(step_cache.cached_first_steps(tiny_base.pipeline.unet, answers, 0))
            if name:
                one = {"": looks[name]}
                stack.enter_context(ip_adapter.apply(tiny_base, one, scale, guided=True, regions={}))
            return rendering.render(tiny_base, None, PROMPT, [3], SETTINGS, word="face")[0].tobytes()

    cases = [("a", 1.0), ("b", 1.0), ("a", 0.5), ("", 1.0), ("a", 1.0)]
    plain = [draw(*case, cached=False) for case in cases]
    assert len(set(plain)) == 4
    assert [draw(*case, cached=True) for case in cases] == plain
    assert len(answers) == 4 * SETTINGS.steps
