"""NeTI (Alaluf et al., SIGGRAPH Asia 2023): a token for each timestep and each cross-attention, and a bypass vector.

No weight of the base changes. The text is encoded once for each cross-attention of the UNet. The authors flip photos
at random; this is not implemented.
"""

# n placeholder tokens . w text width . L cross-attentions of the UNet

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pmagic import shelf
from pmagic.bases import memory_estimate
from pmagic.bases.loading import Base
from pmagic.bases.model_spec import ModelSpec
from pmagic.engine import layer_mapper, randomness, token_batch, training
from pmagic.engine.attention import cross_attentions
from pmagic.engine.composing import EmbeddingSchedule, LearnedTokens, NameEmbedding
from pmagic.engine.layer_mapper import LayerMapper
from pmagic.engine.recipes import LearnSettings
from pmagic.engine.subject import Subject
from pmagic.engine.training import StepReport
from pmagic.errors import Incompatible, UsageError
from pmagic.methods import _weights, persona_of, report_persona, require_base
from pmagic.persona import Persona, StageBounds

WHOLE = StageBounds(0, 1000)
# The authors' values. Their 1e-3 is multiplied by their batch of 2 and by 4 accumulated batches, which are one here.
OWN: Mapping[str, Any] = {
    "tokens": 1,
    "bounds": (WHOLE.low, WHOLE.high),
    "losses": {"mse": 1.0},
    "learning_rate": 8e-3,
    "batch": 8,
    "iterations": 1000,
}
FREQUENCIES = "frequencies"  # key in a persona's tensors

TRAINED = "a mapper from timestep and layer to embeddings"
SOURCE = (
    "NeTI (Alaluf et al., SIGGRAPH Asia 2023, arXiv 2305.15391), whose own code is MIT, "
    "written anew here under Apache-2.0"
)
HAS_STAGES = False
DRIFTS = False


def settings_for(recipe: str, base_defaults: Mapping[str, Any], **overrides: Any) -> LearnSettings:
    """The authors' values, overridden by [learn.neti] of the base's pmagic.toml, overridden by `overrides`."""
    return _weights.settings_for("neti", OWN, recipe, base_defaults, **overrides)


def count_weights(spec: ModelSpec, settings: LearnSettings) -> int:
    """The values of the mapper. Raises Incompatible if the base's widths cannot be read."""
    return layer_mapper.count_weights(memory_estimate.text_width(spec), memory_estimate.count_cross_attentions(spec))


def kept_bytes(spec: ModelSpec, settings: LearnSettings) -> int:
    """Bytes of the mapper and its frequencies."""
    return 4 * (count_weights(spec, settings) + 2 * layer_mapper.FREQUENCIES)


def texts_per_sample(spec: ModelSpec) -> int:
    """How many texts are encoded for a sample: one for each cross-attention."""
    return memory_estimate.count_cross_attentions(spec)


def make_learner(base: Base, subject: Subject, settings: LearnSettings) -> LayerMapper:
    """The untrained mapper. Raises UsageError for settings that this method does not have."""
    _require_usable(settings)
    word = token_batch.word_embedding(base, subject.word).to(base.learner_dtype)
    layers, frequencies = len(cross_attentions(base.pipeline.unet)), layer_mapper.draw_frequencies(settings.seed)
    with randomness.seeded_weights(settings.seed):
        return LayerMapper(word.cpu(), layers, frequencies, settings.batch).to(base.device)


def learn(
    base: Base,
    subject: Subject,
    settings: LearnSettings,
    on_step: Callable[[StepReport], None] = lambda report: None,
    checkpoint: Path | None = None,
) -> Persona:
    """Train the mapper on the subject. Raises the errors of `training.train`, and UsageError for other settings."""
    learner = make_learner(base, subject, settings)

    def finished(losses: Mapping[str, float]) -> Persona:
        persona = persona_of("neti", base, subject, settings, learner, losses)
        frequencies = learner.frequencies.float().cpu().numpy()
        return replace(persona, tensors={**persona.tensors, FREQUENCIES: frequencies})

    context = training.prepare_training(base, subject, settings)
    return finished(training.train(context, learner, report_persona(on_step, finished), checkpoint))


@contextmanager
def apply(base: Base, personas: Sequence[Persona]) -> Iterator[list[EmbeddingSchedule]]:
    """Apply each persona's embeddings; no weight changes. Raises Incompatible for a persona of another base."""
    yield [_schedule(base, each) for each in personas]


def _schedule(base: Base, persona: Persona) -> EmbeddingSchedule:
    require_base(base, persona)
    learner = _learner_of(base, persona)

    @torch.no_grad()
    def schedule(timesteps: Sequence[float]) -> Mapping[float, NameEmbedding]:
        distinct = list(dict.fromkeys(timesteps))
        t = torch.tensor(distinct, device=base.device, dtype=base.learner_dtype)
        tokens, _, bypass = learner(t, t)
        pairs = zip(tokens, bypass, strict=True)
        return {t: LearnedTokens(own, None, beside) for t, (own, beside) in zip(distinct, pairs, strict=True)}

    return schedule


def _learner_of(base: Base, persona: Persona) -> LayerMapper:
    """The trained mapper on the base's device. Raises Incompatible if the persona's tensors are not those of one."""
    weights = {
        name.removeprefix("learner."): torch.tensor(array, dtype=base.learner_dtype, device=base.device)
        for name, array in persona.tensors.items()
        if name == FREQUENCIES or name.startswith("learner.")
    }
    word = token_batch.word_embedding(base, persona.word).to(base.learner_dtype)
    try:
        frequencies = weights.pop(FREQUENCIES).reshape(layer_mapper.FREQUENCIES, 2)
        learner = LayerMapper(word, len(cross_attentions(base.pipeline.unet)), frequencies)
        learner.load_state_dict(weights)
    except (KeyError, RuntimeError) as error:
        raise Incompatible(f"the persona's tensors are not those of NeTI: {error}", "learn it again") from error
    return learner.requires_grad_(False).eval()


def _require_usable(settings: LearnSettings) -> None:
    """Raises UsageError for other bounds, another number of tokens, or a loss of tandem equilibrium."""
    assert settings.bounds is not None  # this method's own settings have them
    if settings.bounds != WHOLE:
        raise UsageError(
            f"NeTI has no stages, so no bounds {settings.bounds.low}:{settings.bounds.high}", "leave the bounds out"
        )
    if settings.tokens != 1:
        raise UsageError(f"NeTI learns one token, not {settings.tokens}", "leave the number of tokens out")
    for name in (name for name, weight in settings.losses.items() if weight):
        if shelf.take("losses", name).READS_OPEN_PROMPT:
            raise UsageError(f"NeTI has a text for each layer, so no loss {name}", "leave this loss out")
