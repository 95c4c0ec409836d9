"""Token batches: tokenized prompts as input for the text encoder, on the base's device."""

# N prompts . S text positions (77 for SD) . w text width

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pmagic.bases.loading import Base
from pmagic.engine import prompts
from pmagic.engine.conditioning import Condition


@dataclass(frozen=True)
class TokenBatch:
    """Tokenized prompts; see prompts.TokenizedPrompt."""

    ids: Tensor  # (N, S) long
    placeholder_index: Tensor  # (N, S) long, k where placeholder k stands, -1 elsewhere
    lengths: Tensor  # (N,) long, tokens without start and end

    def select(self, which: Tensor) -> "TokenBatch":
        """The rows at the indices `which`, (B,) long."""
        return TokenBatch(self.ids[which], self.placeholder_index[which], self.lengths[which])


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
    tokenizer = base.pipeline.tokenizer
    ids = tokenizer(text, padding="max_length", max_length=tokenizer.model_max_length, truncation=True).input_ids
    hidden = base.pipeline.text_encoder(torch.tensor([ids], device=base.device)).last_hidden_state
    return Condition(hidden, hidden)


def word_embedding(base: Base, word: str) -> Tensor:
    """The frozen token embedding of the super-category: (w,). Raises UsageError for a word of several tokens."""
    token = prompts.check_word(base.pipeline.tokenizer, word)
    return base.pipeline.text_encoder.get_input_embeddings().weight[token].detach()
