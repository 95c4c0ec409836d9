"""Losses, one equation per file. The contract of a file on this shelf:

READS_OPEN_PROMPT: bool             whether `Moment.attention` must be there
READS_FACE: bool                    whether `Moment.apart` must be there
def loss(output: StepOutput) -> Tensor  (B,), one value per sample; trained is the mean times the recipe's weight
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
    """One training step as a loss may see it.

    The prediction and its target are the noise, or the velocity for a base that predicts it. The attention is the
    text encoder's last layer on an open prompt, a free sentence that holds the name; None where no loss reads it, as is
    what concerns the face.
    """

    t: Tensor  # (B,) long, training timesteps
    latents: Tensor  # (B, C, h, w), scaled, clean
    noisy: Tensor  # (B, C, h, w)
    prediction: Tensor  # (B, C, h, w)
    target: Tensor  # (B, C, h, w)
    mask: Tensor  # (B, 1, h, w), range [0, 1]
    keys: Tensor  # (B, S, D), what cross-attention was asked with
    values: Tensor  # (B, S, D)
    attention: Tensor | None = None  # (B, H, S, S), rows are queries and sum to 1
    open_slots: Tensor | None = None  # (B, S), k at placeholder k, -1 elsewhere
    open_lengths: Tensor | None = None  # (B,), tokens without start and end
    signal: Tensor | None = None  # (B,), how much of the clean latents' variance is left in `noisy`: alpha bar
    velocity: bool = False  # whether prediction and target are velocities
    apart: Callable[[Tensor], Tensor] | None = None  # clean latents (B, C, h, w) -> 1 - cosine of the faces (B,)
