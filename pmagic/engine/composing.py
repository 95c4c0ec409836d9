"""Composing: several personas in one prompt, each in its own stage, and each in its own part of the picture.

At one timestep, one persona may still be a plain word while another is dynamic tokens, because each has the bounds
with which it was learned. Personas that were learned separately are combined here.
"""

# S text positions . n placeholder tokens . w text width

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from pmagic import shelf
from pmagic.bases.loading import Base
from pmagic.engine import prompts, token_batch
from pmagic.engine.conditioning import Condition, encode
from pmagic.persona import Persona


@dataclass(frozen=True, eq=False)
class LearnedTokens:
    """Learned tokens that stand for a name, and the residual mixed into their values: (n, w) each; it may be None."""

    tokens: Tensor
    residual: Tensor | None


# What stands for a name: a plain word or learned tokens. Words are compared by value, LearnedTokens by identity.
NameEmbedding = str | LearnedTokens
# Maps a sampler's timesteps, falling, to what stands for the name at each of them. It takes all timesteps at once,
# because below the dynamic interval the embedding of the last timestep inside it is used.
EmbeddingSchedule = Callable[[Sequence[float]], Mapping[float, NameEmbedding]]


@contextmanager
def apply_personas(base: Base, personas: Mapping[str, Persona | str]) -> Iterator[Mapping[str, EmbeddingSchedule]]:
    """While inside, the personas are applied to the base; yields the schedule of each name.

    personas: by name, a persona or the plain word that stands for the name at every timestep. All personas of a method
    are applied together, because a method may have to merge them. Methods and personas are taken in the order of their
    names, so the result does not depend on the order of `personas`.
    Raises Incompatible for a persona of another base; the base is restored in every case.
    """
    schedules = {name: constant_schedule(each) for name, each in personas.items() if isinstance(each, str)}
    by_method: dict[str, dict[str, Persona]] = {}
    for name, each in sorted(personas.items()):
        if not isinstance(each, str):
            by_method.setdefault(each.method, {})[name] = each
    with ExitStack() as stack:
        for method, own in sorted(by_method.items()):
            applied = stack.enter_context(shelf.take("methods", method).apply(base, list(own.values())))
            schedules.update(zip(own, applied, strict=True))
        yield {name: schedules[name] for name in personas}


def constant_schedule(said: NameEmbedding) -> EmbeddingSchedule:
    """The schedule with the same embedding at every timestep."""
    return lambda timesteps: dict.fromkeys(timesteps, said)


def regional_prompts(
    wordings: Mapping[str, EmbeddingSchedule], words: Mapping[str, str], placed: Sequence[str]
) -> list[Mapping[str, EmbeddingSchedule]]:
    """The schedules of the prompt for the region of each `placed` name and, last, for the rest of the picture.

    In a region, every placed name stands for the person of that region. Nothing of the others reaches it, not even
    through the text encoder, and the sentence keeps its form ("X and X on a beach": two people). In the rest of the
    picture, the placed names are plain `words`. A name without a region, such as a style, is the same everywhere.
    """
    regional = [{**wordings, **dict.fromkeys(placed, wordings[name])} for name in placed]
    return [*regional, {**wordings, **{name: constant_schedule(words[name]) for name in placed}}]


@torch.no_grad()
def encode_schedule(
    base: Base, prompt: str, wordings: Mapping[str, EmbeddingSchedule], timesteps: Sequence[float]
) -> Mapping[float, Condition]:
    """The condition of a prompt with names in braces at each timestep (B = 1).

    Raises UsageError for a name that is missing, unknown or cut off.
    """
    said = {name: wording(timesteps) for name, wording in wordings.items()}
    at = {t: tuple(said[name][t] for name in wordings) for t in timesteps}
    alike: dict[tuple[str | int, ...], list[tuple[NameEmbedding, ...]]] = {}
    for each in dict.fromkeys(at.values()):
        alike.setdefault(tuple(one if isinstance(one, str) else len(one.tokens) for one in each), []).append(each)
    found: dict[tuple[NameEmbedding, ...], Condition] = {}
    for many in alike.values():
        both = _encode(base, prompt, list(wordings), many)
        pairs = zip(both.keys.split(1), both.values.split(1), strict=True)
        found.update({each: Condition(*pair) for each, pair in zip(many, pairs, strict=True)})
    return {t: found[at[t]] for t in timesteps}


def _encode(base: Base, prompt: str, names: Sequence[str], many: Sequence[tuple[NameEmbedding, ...]]) -> Condition:
    """The prompt encoded once per row of `many`, B = len(many); all rows have the same words at the same names."""
    first = dict(zip(names, many[0], strict=True))
    text = prompts.substitute_names(prompt, {name: said for name, said in first.items() if isinstance(said, str)})
    tokens = {name: len(said.tokens) for name, said in first.items() if isinstance(said, LearnedTokens)}
    if not tokens:
        return token_batch.encode_plain(base, text)
    rows = [[said for said in each if isinstance(said, LearnedTokens)] for each in many]
    dynamic = torch.stack([torch.cat([said.tokens for said in row]) for row in rows])  # (B, all n, w)
    residual = None
    if any(said.residual is not None for row in rows for said in row):  # a residual of zero does not change the values
        residual = torch.stack([torch.cat([_residual(said) for said in row]) for row in rows])
    which = torch.zeros(len(many), dtype=torch.long, device=base.device)
    placed = token_batch.tokens_with_names(base, [text], tokens).select(which)
    return encode(base.pipeline.text_encoder, placed.ids, placed.placeholder_index, dynamic, residual).condition


def _residual(said: LearnedTokens) -> Tensor:
    return torch.zeros_like(said.tokens) if said.residual is None else said.residual
