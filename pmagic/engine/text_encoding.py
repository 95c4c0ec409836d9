"""Text encoding: prompts with a name, by each text encoder of a base. The paper has one; for two, this is our choice.

The mapper answers with vectors for each encoder, side by side: the name's tokens go into both, and the residual is
mixed into the values of both, each at the length of its own hidden state. Cross-attention reads both side by side.
"""

# B batch . S text positions . n placeholder tokens . w width of all text encoders together . H heads

from typing import cast

import torch
from torch import Tensor

from pmagic.bases.loading import Base
from pmagic.engine import conditioning
from pmagic.engine.conditioning import Condition, Encoded
from pmagic.engine.token_batch import TokenBatch


def encode(
    base: Base, batch: TokenBatch, dynamic: Tensor, residual: Tensor | None, *, with_attention: bool = False
) -> Encoded:
    """Encode prompts in which dynamic tokens stand for the name; see `conditioning.encode`.

    dynamic, residual: (B, n, w). The attention of two encoders is that of all their heads. The result has no pooled
    vector: a base that reads one gets the plain sentence's.
    """
    count, widths = len(base.text_encoders), base.text_widths
    residuals = [None] * count if residual is None else residual.split(widths, dim=-1)
    parts = [
        conditioning.encode(
            text_encoder,
            batch.padded_with(cast(int, tokenizer.pad_token_id)),
            batch.placeholder_index,
            tokens,
            rest,
            with_attention=with_attention,
            penultimate=base.reads_pooled,
        )
        for text_encoder, tokenizer, tokens, rest in zip(
            base.text_encoders, base.tokenizers, dynamic.split(widths, dim=-1), residuals, strict=True
        )
    ]
    if count == 1:
        return parts[0]
    keys, values = (torch.cat([getattr(each.condition, name) for each in parts], dim=-1) for name in ("keys", "values"))
    heads = [each.attention for each in parts if each.attention is not None]
    return Encoded(Condition(keys, values), torch.cat(heads, dim=1) if heads else None)
