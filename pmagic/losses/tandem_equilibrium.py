"""Tandem equilibrium (paper, Eq. 1): the name and the strongest other word share the text encoder's attention."""

# B batch . H heads . S text positions

import torch
from torch import Tensor

from pmagic.losses import StepOutput

READS_OPEN_PROMPT = True
READS_FACE = False
SHARPNESS = 100.0  # the authors' code multiplies the attention by it before the softmax; the paper does not say


def loss(output: StepOutput) -> Tensor:
    """-(p * (1 - p)) per sample, range [-0.25, 0]: lowest at balance. (B,)"""
    if output.attention is None or output.open_placeholder_index is None or output.open_lengths is None:
        raise ValueError("tandem equilibrium needs the attention of an open prompt")
    share = shares(output.attention, output.open_placeholder_index, output.open_lengths)
    return -(share * (1 - share))


def shares(attention: Tensor, placeholder_index: Tensor, lengths: Tensor) -> Tensor:
    """p, the name's share against the strongest other word, range (0, 1): (B,).

    attention: (B, H, S, S). Of columns 1..L (start, end and padding are dropped, every query row stays) the
    placeholder column of largest mass and the other column of largest mass are multiplied by 100 and put through a
    softmax over the pair; p is the mean of the first over heads and rows. Every prompt needs a word besides the name.
    """
    positions = torch.arange(attention.shape[-1], device=attention.device)
    inside = (positions >= 1) & (positions <= lengths[:, None])  # (B, S)
    mass = attention.detach().sum(dim=(1, 2))  # (B, S)
    name = _column(attention, mass, inside & (placeholder_index >= 0))
    other = _column(attention, mass, inside & (placeholder_index < 0))
    return torch.sigmoid(SHARPNESS * (name - other)).mean(dim=(1, 2))


def _column(attention: Tensor, mass: Tensor, allowed: Tensor) -> Tensor:
    """The allowed column of largest mass, per sample: (B, H, S)."""
    columns = mass.masked_fill(~allowed, float("-inf")).argmax(dim=-1)  # (B,)
    return attention[torch.arange(len(columns), device=columns.device), :, :, columns]
