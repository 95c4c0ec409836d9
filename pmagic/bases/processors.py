"""Attention written out where a gradient goes through it: on a CPU in bfloat16 that is cheaper than the fused kernel.

Both are diffusers' own. The fused kernel's backward pass takes longer there for small matrices and for cross-attention
(`python -m tests.bench learn`); it never holds the whole matrix, so large ones stay with it.
"""

from typing import Any

from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor

# Cells of one head's matrix, queries times keys, up to which that holds for heads of any width; 1024 x 1024 is above.
LARGEST = 2**19

_written_out = AttnProcessor()


class CheapBackward(AttnProcessor2_0):
    """The fused kernel, unless the result has a gradient and its matrix is small."""

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **others: Any
    ) -> Tensor:
        """hidden_states: (B, n, c). encoder_hidden_states: (B, m, w), None for self-attention."""
        read = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        small = hidden_states.shape[1] * read.shape[1] <= LARGEST
        way = _written_out if small and (hidden_states.requires_grad or read.requires_grad) else super().__call__
        return way(attn, hidden_states, encoder_hidden_states, **others)
