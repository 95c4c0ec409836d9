"""Attention with explicit matrices where it needs a gradient: on a CPU in bfloat16 it is cheaper than the fused kernel.

Both are diffusers' own. The fused kernel's backward pass is slower there for small matrices and for cross-attention
(`python -m tests.bench learn`). It never stores the whole matrix, so it is kept for large ones.
"""

from typing import Any

from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor

# Entries of one head's matrix, queries times keys, up to which explicit matrices are cheaper for heads of any width.
LARGEST = 2**19

_explicit = AttnProcessor()


class CheapBackward(AttnProcessor2_0):
    """The fused kernel, unless the result has a gradient and its matrix is small."""

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **others: Any
    ) -> Tensor:
        """hidden_states: (B, n, c). encoder_hidden_states: (B, m, w), None for self-attention."""
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        small = hidden_states.shape[1] * source.shape[1] <= LARGEST
        attend = _explicit if small and (hidden_states.requires_grad or source.requires_grad) else super().__call__
        return attend(attn, hidden_states, encoder_hidden_states, **others)
