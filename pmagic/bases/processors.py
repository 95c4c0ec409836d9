"""Attention written out where a gradient goes through it: on a CPU in bfloat16 that is cheaper than the fused kernel.

Both are diffusers' own. The fused kernel's backward pass takes twice the time there and more, whatever the shape
(`python -m tests.bench learn`); it never holds the whole matrix, so the largest ones stay with it.
"""

from typing import Any

from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor

LARGEST = 2**20  # cells of one head's matrix, queries times keys; Stable Diffusion's 4096 x 4096 would fill the memory

_written_out = AttnProcessor()


class CheapBackward(AttnProcessor2_0):
    """The fused kernel, unless the result has a gradient and its matrix is small enough to be kept."""

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **others: Any
    ) -> Tensor:
        """hidden_states: (B, n, c). encoder_hidden_states: (B, m, w), None for self-attention."""
        read = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        kept = hidden_states.shape[1] * read.shape[1] <= LARGEST
        way = _written_out if kept and (hidden_states.requires_grad or read.requires_grad) else super().__call__
        return way(attn, hidden_states, encoder_hidden_states, **others)
