"""Usual captions, encoded: what a merge of projections must change as little as possible."""

# N encoded words . w text width . S text positions

import torch
from torch import Tensor

from pmagic.bases.loading import Base
from pmagic.engine import prompts
from pmagic.engine.last_result import LastResult

_AT_ONCE = 64  # captions in one pass of the text encoder
_factors: LastResult[Tensor] = LastResult()


def captions() -> list[str]:
    """Usual sentences about usual things, always the same."""
    words = [*prompts.COMMON_WORDS, *prompts.FACE_WORDS]
    frames = [*prompts.TEMPLATES["face"], *prompts.TEMPLATES["style"], *prompts.OPEN_PROMPTS]
    return [frame.replace(prompts.NAME, word) for number, frame in enumerate(frames) for word in words[number % 4 :: 4]]


@torch.no_grad()
def caption_rows(base: Base) -> Tensor:
    """Encodings (N, w) of the captions in float64, without the start token and the padding.

    The text encoder is causal, so that a caption need not be padded to the S positions that the UNet reads.
    """
    texts = sorted(captions(), key=len)  # captions of like length share a pass
    rows: list[Tensor] = []
    for first in range(0, len(texts), _AT_ONCE):
        parts, lengths = [], []
        for tokenizer, text_encoder in zip(base.tokenizers, base.text_encoders, strict=True):
            some = tokenizer(texts[first : first + _AT_ONCE], padding="longest", truncation=True, return_tensors="pt")
            output = text_encoder(some.input_ids.to(base.device), output_hidden_states=base.reads_pooled)
            parts.append(output.hidden_states[-2] if base.reads_pooled else output.last_hidden_state)
            lengths = some.attention_mask.sum(dim=1).tolist()
        both = torch.cat(parts, dim=-1)
        rows += [encoded[1:length].double() for encoded, length in zip(both, lengths, strict=True)]
    return torch.cat(rows)


def caption_factor(base: Base) -> Tensor:
    """A triangular R (w, w) with R'R = C'C for the caption rows C (N, w). It is kept for the base's text encoder."""
    return _factors.get(base.pipeline.text_encoder, (), lambda: torch.linalg.qr(caption_rows(base), mode="r")[1])
