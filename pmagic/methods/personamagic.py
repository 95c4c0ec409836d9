"""PersonaMagic (Li et al., AAAI 2025): embeddings that follow the schedule's stages, for keys and for values."""

# n placeholder tokens . w text width . e image embedding width

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pmagic.bases import memory_estimate
from pmagic.bases.loading import Base
from pmagic.bases.model_spec import ModelSpec
from pmagic.engine import mapper, probe, token_batch, training
from pmagic.engine.composing import EmbeddingSchedule, LearnedTokens, NameEmbedding
from pmagic.engine.mapper import HIDDEN, Mapper, MapperShape
from pmagic.engine.recipes import LearnSettings, settings_for
from pmagic.engine.stages import dynamic_sources
from pmagic.engine.subject import Subject
from pmagic.engine.training import StepReport
from pmagic.errors import Incompatible
from pmagic.methods import persona_of, report_persona, require_base
from pmagic.persona import Persona

__all__ = ["HAS_STAGES", "SOURCE", "TRAINED", "apply", "count_weights", "learn", "make_learner", "settings_for"]

TRAINED = "a mapper from timestep and photo to embeddings"
SOURCE = "PersonaMagic (Li et al., AAAI 2025, arXiv 2412.15674); pmagic's own code, Apache-2.0"
HAS_STAGES = True

make_learner = probe.make_mapper


def count_weights(spec: ModelSpec, settings: LearnSettings) -> int:
    """The values of the mapper. Raises WeightsMissing or Incompatible if the base's widths cannot be read."""
    widths = memory_estimate.text_width(spec), memory_estimate.image_width(spec)
    return mapper.count_weights(MapperShape(settings.tokens, *widths))


def learn(
    base: Base,
    subject: Subject,
    settings: LearnSettings,
    on_step: Callable[[StepReport], None] = lambda report: None,
    checkpoint: Path | None = None,
) -> Persona:
    """Train a mapper on the subject; if the settings have no bounds, the probe finds them.

    Raises the errors of `training.train`.
    """
    if settings.bounds is None:
        found = probe.probe(base, subject, settings)
        persona = learn(base, subject, replace(settings, bounds=found.bounds), on_step, checkpoint)
        return probe.with_probe_result(persona, found.curve, found.fallback_reason)
    context = training.prepare_training(base, subject, settings)
    learner = make_learner(base, subject, settings)
    finished = partial(persona_of, "personamagic", base, subject, settings, learner)
    return finished(training.train(context, learner, report_persona(on_step, finished), checkpoint))


@contextmanager
def apply(base: Base, personas: Sequence[Persona]) -> Iterator[list[EmbeddingSchedule]]:
    """Apply each persona's embeddings; no weight changes. Raises Incompatible for a persona of another base."""
    yield [schedule_of(base, each) for each in personas]


def schedule_of(base: Base, persona: Persona) -> EmbeddingSchedule:
    """The name's embedding at each timestep: the plain word, then the dynamic tokens, then the last of them.

    Raises Incompatible for a persona of another base.
    """
    require_base(base, persona)
    learner, image_embedding = mapper_of(base, persona)

    @torch.no_grad()
    def schedule(timesteps: Sequence[float]) -> Mapping[float, NameEmbedding]:
        sources = dynamic_sources(timesteps, persona.bounds)
        found: dict[float | None, NameEmbedding] = {None: persona.word}
        dynamic = list(dict.fromkeys(source for source in sources if source is not None))
        if dynamic:
            t = torch.tensor(dynamic, device=base.device, dtype=base.learner_dtype)
            pairs = zip(*learner(t, image_embedding.expand(len(dynamic), -1)), strict=True)
            found.update({source: LearnedTokens(*pair) for source, pair in zip(dynamic, pairs, strict=True)})
        return {t: found[source] for t, source in zip(timesteps, sources, strict=True)}

    return schedule


def mapper_of(base: Base, persona: Persona) -> tuple[Mapper, Tensor]:
    """The trained mapper and the image embedding (1, e), on the base's device.

    Raises Incompatible if the persona's tensors are not those of a mapper.
    """
    weights = {
        name.removeprefix("learner."): torch.tensor(array, dtype=base.learner_dtype, device=base.device)
        for name, array in persona.tensors.items()
        if name == "image_embedding" or name.startswith("learner.")
    }
    word = token_batch.word_embedding(base, persona.word).to(base.learner_dtype)
    try:
        image_embedding = weights.pop("image_embedding")
        outputs, inputs = len(weights["dynamic_out.bias"]), weights["image_hidden.0.weight"].shape[-1]
        shape = MapperShape(outputs // len(word), len(word), inputs - HIDDEN)
        learner = Mapper(shape, word, persona.bounds).to(base.device, base.learner_dtype)
        learner.load_state_dict(weights)
        image_embedding = image_embedding.reshape(1, inputs - HIDDEN)
    except (KeyError, RuntimeError, TypeError, IndexError, ValueError) as error:
        raise Incompatible(f"the persona's tensors are not those of a mapper: {error}", "learn it again") from error
    return learner.requires_grad_(False), image_embedding
