"""Losses, one equation per file. The contract of a file on this shelf:

READS_OPEN_PROMPT: bool             whether it needs `StepOutput.attention`
READS_FACE: bool                    whether it needs `StepOutput.identity_distance`
def loss(output: StepOutput) -> Tensor  (B,), one value per sample; training uses their mean times the recipe's weight
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# B batch . C latent channels . h, w latent height and width . S text positions . H heads . D text width


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """What a loss can read of one training step.

    The prediction and its target are the noise, or the velocity for a base that predicts it. The attention is that of
    the text encoder's last layer for an open prompt: a free sentence with the name in it. Attention and
    `identity_distance` are None where no loss reads them.
    """

    t: Tensor  # (B,) long, training timesteps
    latents: Tensor  # (B, C, h, w), scaled, clean
    noisy: Tensor  # (B, C, h, w)
    prediction: Tensor  # (B, C, h, w)
    target: Tensor  # (B, C, h, w)
    mask: Tensor  # (B, 1, h, w), range [0, 1]
    keys: Tensor  # (B, S, D), text embeddings for the keys of cross-attention
    values: Tensor  # (B, S, D), and for its values
    attention: Tensor | None = None  # (B, H, S, S), rows are queries and sum to 1
    open_placeholder_index: Tensor | None = None  # (B, S), k at placeholder k, -1 elsewhere
    open_lengths: Tensor | None = None  # (B,), tokens without start and end
    signal: Tensor | None = None  # (B,), alpha bar: the share of the clean latents' variance in `noisy`
    velocity: bool = False  # whether prediction and target are velocities
    identity_distance: Callable[[Tensor], Tensor] | None = (
        None  # clean latents (B, C, h, w) -> 1 - cosine of the faces (B,)
    )
