"""Custom Diffusion (Kumari et al., CVPR 2023): keys and values of cross-attention, and one new word before the class.

Personas that were learned separately are merged in closed form if one prompt names them. The authors' augmentation
(photos shrunk onto black, or enlarged) and their class pictures are not implemented.
"""

# m, N rows of text encodings . w text width . o features of a projection

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pmagic.bases import memory_estimate
from pmagic.bases.loading import Base
from pmagic.bases.model_spec import ModelSpec
from pmagic.engine import concept_merge, conditioning, prompts, reweighting, token_batch
from pmagic.engine.composing import EmbeddingSchedule, LearnedTokens
from pmagic.engine.hooks import exchanged_parameters
from pmagic.engine.recipes import LearnSettings
from pmagic.engine.subject import Subject
from pmagic.engine.training import StepReport
from pmagic.methods import _weights
from pmagic.persona import Persona

# The authors' values for one GPU: 1e-5 times a batch of 2.
OWN: Mapping[str, Any] = {
    "tokens": 2,
    "bounds": (0, 1000),
    "losses": {"masked_mse": 1.0},
    "templates": ["photo of a {}"],
    "weights": "cross-kv",
    "learning_rate": 2e-5,
    "batch": 2,
    "iterations": 500,
}
PHRASES = ("{}", "photo of a {}")  # a merge must keep each persona's own outputs for these


TRAINED = "keys and values of cross-attention, and a word"
SOURCE = (
    "Custom Diffusion (Kumari et al., CVPR 2023, arXiv 2212.04488), whose own code is for research only, "
    "written anew here under Apache-2.0"
)
HAS_STAGES = False

kept_bytes = _weights.kept_bytes


def count_weights(spec: ModelSpec, settings: LearnSettings) -> int:
    """The values of the difference and the word. Raises Incompatible if the base's weights cannot be read."""
    return _weights.count_weights(spec, settings) + memory_estimate.text_width(spec)


def settings_for(recipe: str, base_defaults: Mapping[str, Any], **overrides: Any) -> LearnSettings:
    return _weights.settings_for("custom_diffusion", OWN, recipe, base_defaults, **overrides)


def make_learner(base: Base, subject: Subject, settings: LearnSettings) -> _weights.WeightLearner:
    """A difference of zero, and the rare name before the class word."""
    phrase = _weights.rare_phrase(base, subject, settings, trained=True)
    return _weights.make_learner(base, settings, phrase)


def learn(
    base: Base,
    subject: Subject,
    settings: LearnSettings,
    on_step: Callable[[StepReport], None] = lambda report: None,
    checkpoint: Path | None = None,
) -> Persona:
    """Train the new word and the projections on the subject. Raises the errors of `training.train`."""
    return _weights.learn(
        "custom_diffusion", base, subject, settings, make_learner(base, subject, settings), on_step, checkpoint
    )


@contextmanager
def apply(base: Base, personas: Sequence[Persona]) -> Iterator[list[EmbeddingSchedule]]:
    """Apply one persona with its own weights, or several with merged weights, which keep each one's outputs.

    Raises Incompatible for a persona of another base, NumericFailure if two are too similar to be merged.
    """
    if len(_distinct(personas)) < 2:
        with _weights.apply_weights(base, personas, _weights.phrase_of) as schedules:
            yield schedules
        return
    schedules = [_weights.phrase_of(base, each) for each in personas]
    with exchanged_parameters(base.pipeline.unet, merge_weights(base, personas, schedules)):
        yield schedules


@torch.no_grad()
def merge_weights(base: Base, personas: Sequence[Persona], schedules: Sequence[EmbeddingSchedule]) -> dict[str, Tensor]:
    """One set of projections for all personas, by name. Only linear weights without a bias are merged."""
    captions = caption_rows(base)
    rows = [phrase_rows(base, schedule) for schedule in schedules]
    own = [reweighting.sum_weights(base.pipeline.unet, [each.tensors]) for each in personas]
    weights: dict[str, Tensor] = {}
    for name in dict.fromkeys(name for each in own for name in each):
        before: Tensor = base.pipeline.unet.get_parameter(name)
        answers = [x @ each.get(name, before).double().T for x, each in zip(rows, own, strict=True)]
        phrases, wanted = concept_merge.distinct(torch.cat(rows), torch.cat(answers))
        weights[name] = concept_merge.merge(before, captions, phrases, wanted).to(before.dtype)
    return weights


def phrase_rows(base: Base, schedule: EmbeddingSchedule) -> Tensor:
    """Encodings (m, w) of the persona's phrases in float64, from its name to the end token."""
    tokens = schedule([0.0])[0.0]
    assert isinstance(tokens, LearnedTokens)
    batch = token_batch.tokens_with_name(base, PHRASES, len(tokens.tokens))
    dynamic = tokens.tokens.expand(len(PHRASES), -1, -1)
    keys = conditioning.encode(
        base.pipeline.text_encoder, batch.ids, batch.placeholder_index, dynamic, None
    ).condition.keys
    rows = []
    for encoded, placeholder_index, length in zip(keys, batch.placeholder_index, batch.lengths, strict=True):
        first = int((placeholder_index == 0).nonzero()[0])
        rows.append(encoded[first : int(length) + 2])  # length does not count the start and end tokens
    return torch.cat(rows).double()


def caption_rows(base: Base) -> Tensor:
    """Encodings (N, w) of usual sentences in float64, without the start token and the padding."""
    words = [*prompts.COMMON_WORDS, *prompts.FACE_WORDS]
    frames = [*prompts.TEMPLATES["face"], *prompts.TEMPLATES["style"], *prompts.OPEN_PROMPTS]
    rows = []
    for number, frame in enumerate(frames):
        for word in words[number % 4 :: 4]:
            text = frame.replace(prompts.NAME, word)
            length = len(base.pipeline.tokenizer(text, truncation=True).input_ids)
            rows.append(token_batch.encode_plain(base, text).keys[0, 1:length])
    return torch.cat(rows).double()


def _distinct(personas: Sequence[Persona]) -> list[Persona]:
    """The personas with different weights; those that were learned together share their weights."""
    return [
        each
        for number, each in enumerate(personas)
        if not any(reweighting.same_weights(each.tensors, other.tensors) for other in personas[:number])
    ]
