"""Token batches: tokenized prompts as input for the text encoder, on the base's device."""

# N prompts . S text positions (77 for SD) . w text width

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from pmagic.bases.loading import Base
from pmagic.engine import prompts
from pmagic.engine.conditioning import Condition

if TYPE_CHECKING:
    from pmagic.engine.conditioning import TextEncoder


@dataclass(frozen=True)
class TokenBatch:
    """Tokenized prompts; see prompts.TokenizedPrompt."""

    ids: Tensor  # (N, S) long
    placeholder_index: Tensor  # (N, S) long, k where placeholder k stands, -1 elsewhere
    lengths: Tensor  # (N,) long, tokens without start and end

    def select(self, which: Tensor) -> "TokenBatch":
        """The rows at the indices `which`, (B,) long."""
        return TokenBatch(self.ids[which], self.placeholder_index[which], self.lengths[which])

    def followed_by(self, other: "TokenBatch") -> "TokenBatch":
        """These rows, and those of `other` after them."""
        pairs = (
            (self.ids, other.ids),
            (self.placeholder_index, other.placeholder_index),
            (self.lengths, other.lengths),
        )
        return TokenBatch(*(torch.cat(pair) for pair in pairs))

    def padded_with(self, pad: int) -> Tensor:
        """The ids (N, S) with another padding token; two tokenizers of one base differ in nothing else."""
        positions = torch.arange(self.ids.shape[1], device=self.ids.device)
        return self.ids.masked_fill(positions > self.lengths[:, None] + 1, pad)


def tokens_with_name(base: Base, texts: Sequence[str], tokens: int) -> TokenBatch:
    """Tokenize prompts with `tokens` placeholders at each `{}`. Raises UsageError if the name is missing or cut off."""
    return tokens_with_names(base, texts, {"": tokens})


def tokens_with_names(base: Base, texts: Sequence[str], tokens: Mapping[str, int]) -> TokenBatch:
    """Tokenize prompts with tokens[name] placeholders at each `{name}`; see prompts.check_names."""
    placed = [prompts.check_names(base.pipeline.tokenizer, text, tokens) for text in texts]
    return TokenBatch(
        ids=torch.tensor([each.ids for each in placed], device=base.device),
        placeholder_index=torch.tensor([each.placeholder_index for each in placed], device=base.device),
        lengths=torch.tensor([each.length for each in placed], device=base.device),
    )


def encode_plain(base: Base, text: str) -> Condition:
    """The stock pipeline's encoding of a text without names; keys and values are equal, (1, S, w)."""
    if base.reads_pooled:
        return _encode_plain_by_both(base, text)
    hidden = base.pipeline.text_encoder(_ids(base, base.pipeline.tokenizer, text)).last_hidden_state
    return Condition(hidden, hidden)


def encode_negative(base: Base, text: str) -> Condition:
    """As `encode_plain`; zeros for an empty text on a Stable Diffusion XL whose configuration says so.

    The stock pipeline reads zeros where no negative prompt is given; pmagic's default is the empty one.
    """
    found = encode_plain(base, text)
    if text or found.pooled is None or not cast(Any, base.pipeline).config.force_zeros_for_empty_prompt:
        return found
    zeros = torch.zeros_like(found.keys)
    return Condition(zeros, zeros, torch.zeros_like(found.pooled))


def _encode_plain_by_both(base: Base, text: str) -> Condition:
    """The same by two text encoders: their features side by side, and the pooled vector (1, p) of the second."""
    hidden, pooled = [], None
    for tokenizer, text_encoder in zip(base.tokenizers, base.text_encoders, strict=True):
        output = text_encoder(_ids(base, tokenizer, text), output_hidden_states=True)
        hidden.append(output.hidden_states[-2])
        pooled = output[0]  # of the second: the projection at the end token
    both = torch.cat(hidden, dim=-1)
    return Condition(both, both, pooled)


def _ids(base: Base, tokenizer: Any, text: str) -> Tensor:
    """(1, S)"""
    ids = tokenizer(text, padding="max_length", max_length=tokenizer.model_max_length, truncation=True).input_ids
    return torch.tensor([ids], device=base.device)


def word_embedding(base: Base, word: str) -> Tensor:
    """The frozen token embedding of the super-category: (w,), of two text encoders one after the other.

    Raises UsageError for a word of several tokens.
    """
    token = prompts.check_word(base.pipeline.tokenizer, word)
    return torch.cat([embedding_table(each)[token] for each in base.text_encoders])


def embedding_table(text_encoder: "TextEncoder") -> Tensor:
    """The frozen embeddings of all tokens: (tokens, w)."""
    return cast(Tensor, text_encoder.get_input_embeddings().weight).detach()
