"""Saving memory gives the same bits, and running out of memory gives a message."""

from pathlib import Path

import pytest
import tiny
import torch

from pmagic.bases import loading
from pmagic.engine import mapper, memory, randomness, token_batch, training
from pmagic.engine.recipes import settings_for
from pmagic.errors import OutOfMemory

pytest_plugins = ["tiny"]


def gradients(base: loading.Base) -> tuple[list[torch.Tensor], int]:
    """Of one step, and how often blocks of the UNet were computed."""
    seen = tiny.known(base)
    settings = settings_for("reference", {}, **tiny.train_step())
    learner = mapper.fresh(token_batch.word_embedding(base, "face"), seen.image_embedding, settings)
    context = training.prepare_training(base, seen, settings)
    draw = randomness.sample_step(settings, 0, 1, seen.mean.shape[1:], seen.mean.dtype)
    calls: list[None] = []
    block = base.pipeline.unet.down_blocks[0].resnets[0]
    hook = block.register_forward_hook(lambda *given: calls.append(None))
    try:
        training.optimizer_step(
            training.make_train_step(context, learner), training.make_optimizer(learner, settings), draw
        )
    finally:
        hook.remove()
    return [weight.grad for weight in learner.parameters()], len(calls)


def test_computing_again_gives_the_same_gradients_and_leaves_the_base_alone(tiny_base: loading.Base) -> None:
    unet = tiny_base.pipeline.unet
    usual, once = gradients(tiny_base)
    up = unet.up_blocks[-1].resnets[-1]
    calls: list[None] = []
    hook = up.register_forward_pre_hook(lambda *given: calls.append(None))
    with memory.gradient_checkpointing(tiny_base.pipeline):
        low, _ = gradients(tiny_base)
    hook.remove()
    assert once == 1 and len(calls) == 2  # the second time in the backward pass, until it has what it needs
    assert all(torch.equal(left, right) for left, right in zip(usual, low, strict=True))
    assert any(gradient.abs().max() > 0 for gradient in low)
    assert not any(module.training for module in unet.modules())
    assert not unet.is_gradient_checkpointing
    assert tiny.hooks_of(tiny_base) == []


@pytest.mark.parametrize("mixed", [True, False])
def test_computing_again_in_the_fast_type(tiny_folders: dict[str, Path], mixed: bool) -> None:
    base = tiny.open_fast(tiny_folders["sd1"], fp32_norms=mixed)
    usual, _ = gradients(base)
    with memory.gradient_checkpointing(base.pipeline):
        low, _ = gradients(base)
    assert all(torch.equal(left, right) for left, right in zip(usual, low, strict=True))
    assert any(gradient.abs().max() > 0 for gradient in low)


def test_the_allocators_refusal_is_a_problem_a_person_can_act_on() -> None:
    with pytest.raises(OutOfMemory, match="not enough memory to draw"), memory.oom_as_problem("draw", "draw less"):
        torch.empty(2**60)
    with pytest.raises(RuntimeError, match="another"), memory.oom_as_problem("draw", "draw less"):
        raise RuntimeError("another")
