"""Numbers that the authors' public code computed, and what the tests need to compare the engine with them.

README.md beside this file describes them. A missing file is an error here, never a skipped test.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pmagic.bases.loading import Base
from pmagic.engine import rendering
from pmagic.engine.recipes import RenderSettings
from pmagic.engine.token_batch import TokenBatch

FOLDER = Path(__file__).parent


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-9, name: str = "") -> None:
    """Assert a relative L2 distance of at most `tolerance`; it is absolute where all expected values are 0."""
    expected = expected.to(torch.float64)
    distance = float((actual.detach().reshape(expected.shape) - expected).norm() / (expected.norm() or 1.0))
    assert distance <= tolerance, f"{name}: relative distance {distance:.3e}"


def token_batch(base: Base, ids: Tensor, placeholders: Sequence[int]) -> TokenBatch:
    """Prompts as the authors' tokenizer gave them, (B, 77), with each placeholder token as the slot it stands for."""
    placeholder_index = torch.full_like(ids, -1)
    for slot, placeholder in enumerate(placeholders):
        placeholder_index[ids == placeholder] = slot
    end = base.pipeline.tokenizer.eos_token_id
    return TokenBatch(ids.masked_fill(placeholder_index >= 0, end), placeholder_index, (ids != end).sum(dim=1) - 1)


def sample(
    base: Base, script: rendering.PromptSchedule, noise: Tensor, settings: RenderSettings, forced: Tensor | None = None
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Draw one picture; the scheduler's latents before each step, eps after guidance, and the last latents.

    noise: (1, C, h, w). forced: latents that the UNet is given in each step instead of the scheduler's own, so that
    differences of two schedulers' tables do not add up in eps.
    """
    own: list[Tensor] = []
    eps: list[Tensor] = []

    def replace_latents(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        own.append(args[0][:1].clone())
        latents = args[0] if forced is None else forced[len(own) - 1].expand_as(args[0])
        return (latents, *args[1:])

    def keep_eps(module: nn.Module, args: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        without, with_prompt = output[0].chunk(2)
        eps.append(without + settings.guidance * (with_prompt - without))

    unet = base.pipeline.unet
    hooks = [unet.register_forward_pre_hook(replace_latents), unet.register_forward_hook(keep_eps)]
    try:
        return own, eps, rendering.sample(base, script, noise, settings)
    finally:
        for hook in hooks:
            hook.remove()
