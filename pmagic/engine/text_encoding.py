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
    base: Base,
    batch: TokenBatch,
    dynamic: Tensor,
    residual: Tensor | None,
    bypass: Tensor | None = None,
    *,
    with_attention: bool = False,
) -> Encoded:
    """Encode prompts in which dynamic tokens stand for the name; see `conditioning.encode`.

    dynamic, residual, bypass: (B, n, w), or (B, L, n, w) with tokens for each cross-attention. The attention of two
    encoders is that of all their heads. The result has no pooled vector: a base that reads one gets the plain
    sentence's.
    """
    count, widths = len(base.text_encoders), base.text_widths
    residuals, bypasses = (
        [None] * count if each is None else each.split(widths, dim=-1) for each in (residual, bypass)
    )
    parts = [
        conditioning.encode(
            text_encoder,
            batch.padded_with(cast(int, tokenizer.pad_token_id)),
            batch.placeholder_index,
            tokens,
            rest,
            added,
            with_attention=with_attention,
            penultimate=base.reads_pooled,
        )
        for text_encoder, tokenizer, tokens, rest, added in zip(
            base.text_encoders, base.tokenizers, dynamic.split(widths, dim=-1), residuals, bypasses, strict=True
        )
    ]
    if count == 1:
        return parts[0]
    layers = parts[0].condition.layers
    keys, values = (
        torch.cat([getattr(each.condition, name).unflatten(-1, (layers, -1)) for each in parts], dim=-1).flatten(-2)
        for name in ("keys", "values")
    )  # (B, S, L w): for each cross-attention the widths of all encoders side by side
    heads = [each.attention for each in parts if each.attention is not None]
    return Encoded(Condition(keys, values, layers=layers), torch.cat(heads, dim=1) if heads else None)
