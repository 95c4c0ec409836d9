"""Custom Diffusion (Kumari et al., CVPR 2023): keys and values of cross-attention, and one new word before the class.

Personas that were learned separately are merged in closed form if one prompt names them. The photos are augmented as in
the authors' program. Its class pictures are real ones, from a service that is gone; here the base draws them.

The person's term and that of the class pictures are means of the same kind, 1 : 1 as in that program. In diffusers'
example the person's is four times a mean: `losses = { masked_mse = 4.0, prior = 1.0 }` in a base's pmagic.toml.
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
from pmagic.engine import captions, concept_merge, reweighting, text_encoding, token_batch
from pmagic.engine.composing import EmbeddingSchedule, LearnedTokens
from pmagic.engine.hooks import exchanged_parameters
from pmagic.engine.last_result import LastResult
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
    "augment": True,
}
WITH_PRIOR: Mapping[str, Any] = {"learning_rate": 4e-5}  # the authors double the rate with class pictures
PHRASES = ("{}", "photo of a {}")  # a merge must keep each persona's own outputs for these


TRAINED = "keys and values of cross-attention, and a word"
SOURCE = (
    "Custom Diffusion (Kumari et al., CVPR 2023, arXiv 2212.04488), whose own code is for research only, "
    "written anew here under Apache-2.0"
)
HAS_STAGES = False
_merges: LastResult[dict[str, Tensor]] = LastResult()

kept_bytes = _weights.kept_bytes


def count_weights(spec: ModelSpec, settings: LearnSettings) -> int:
    """The values of the difference and the word. Raises Incompatible if the base's weights cannot be read."""
    return _weights.count_weights(spec, settings) + memory_estimate.text_width(spec)


def settings_for(recipe: str, base_defaults: Mapping[str, Any], **overrides: Any) -> LearnSettings:
    return _weights.settings_for("custom_diffusion", OWN, recipe, base_defaults, with_prior=WITH_PRIOR, **overrides)


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


def learn_together(
    base: Base,
    subjects: Sequence[Subject],
    settings: Sequence[LearnSettings],
    on_step: Callable[[StepReport], None] = lambda report: None,
    checkpoint: Path | None = None,
) -> list[Persona]:
    """Train the same projections for all subjects, and a new word for each. Raises the errors of `training.train`."""
    phrases = [
        _weights.rare_phrase(base, subject, each, trained=True, number=number)
        for number, (subject, each) in enumerate(zip(subjects, settings, strict=True))
    ]
    return _weights.learn_together("custom_diffusion", base, subjects, settings, phrases, on_step, checkpoint)


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


def merge_weights(base: Base, personas: Sequence[Persona], schedules: Sequence[EmbeddingSchedule]) -> dict[str, Tensor]:
    """One set of projections for all personas, by name. Only linear weights without a bias are merged.

    The last merge on a base is kept, because each batch of pictures applies the personas anew.
    """
    inputs = [*(each.tensors for each in personas), *base.pipeline.text_encoder.parameters()]
    return _merges.get(base.pipeline.unet, inputs, lambda: _merge_weights(base, personas, schedules))


@torch.no_grad()
def _merge_weights(
    base: Base, personas: Sequence[Persona], schedules: Sequence[EmbeddingSchedule]
) -> dict[str, Tensor]:
    factor = captions.caption_factor(base)  # it has the captions' Gram matrix, which is all that a merge reads
    rows = [phrase_rows(base, schedule) for schedule in schedules]
    own = [reweighting.sum_weights(base.pipeline.unet, [each.tensors]) for each in personas]
    weights: dict[str, Tensor] = {}
    for name in dict.fromkeys(name for each in own for name in each):
        before = reweighting.current_weight(base.pipeline.unet, name)
        answers = [x @ each.get(name, before).double().T for x, each in zip(rows, own, strict=True)]
        phrases, wanted = concept_merge.distinct(torch.cat(rows), torch.cat(answers))
        weights[name] = concept_merge.merge(before, factor, phrases, wanted).to(before.dtype)
    return weights


def phrase_rows(base: Base, schedule: EmbeddingSchedule) -> Tensor:
    """Encodings (m, w) of the persona's phrases in float64, from its name to the end token."""
    tokens = schedule([0.0])[0.0]
    assert isinstance(tokens, LearnedTokens)
    batch = token_batch.tokens_with_name(base, PHRASES, len(tokens.tokens))
    dynamic = tokens.tokens.expand(len(PHRASES), -1, -1)
    keys = text_encoding.encode(base, batch, dynamic, None).condition.keys
    rows = []
    for encoded, placeholder_index, length in zip(keys, batch.placeholder_index, batch.lengths, strict=True):
        first = int((placeholder_index == 0).nonzero()[0])
        rows.append(encoded[first : int(length) + 2])  # length does not count the start and end tokens
    return torch.cat(rows).double()


def _distinct(personas: Sequence[Persona]) -> list[Persona]:
    """The personas with different weights; those that were learned together share their weights."""
    return [
        each
        for number, each in enumerate(personas)
        if not any(reweighting.same_weights(each.tensors, other.tensors) for other in personas[:number])
    ]
