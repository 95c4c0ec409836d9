"""PersonaMagic's embeddings in Custom Diffusion (paper, Limitations): mapper and weights, trained together.

The trained weights are those of Custom Diffusion. If a prompt names several personas, their differences are added.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pmagic.bases.loading import Base
from pmagic.bases.model_spec import ModelSpec
from pmagic.engine import probe, recipes
from pmagic.engine.composing import EmbeddingSchedule
from pmagic.engine.recipes import LearnSettings
from pmagic.engine.subject import Subject
from pmagic.engine.training import StepReport
from pmagic.methods import _weights, personamagic
from pmagic.persona import Persona

# Keys and values have the rate of Custom Diffusion; the mapper keeps the recipe's.
OWN: Mapping[str, Any] = {"weights": "cross-kv", "learning_rate": 2e-5}

TRAINED = "a mapper, and keys and values of cross-attention"
SOURCE = "PersonaMagic in Custom Diffusion (Li et al., AAAI 2025, arXiv 2412.15674); pmagic's own code, Apache-2.0"
HAS_STAGES = True


def count_weights(spec: ModelSpec, settings: LearnSettings) -> int:
    """The values of the mapper and the difference. Raises the errors of both counts."""
    return personamagic.count_weights(spec, settings) + _weights.count_weights(spec, settings)


def kept_bytes(spec: ModelSpec, settings: LearnSettings) -> int:
    """Bytes of the mapper in float32 and the difference in float16."""
    return 4 * personamagic.count_weights(spec, settings) + _weights.kept_bytes(spec, settings)


def settings_for(recipe: str, base_defaults: Mapping[str, Any], **overrides: Any) -> LearnSettings:
    """PersonaMagic's settings, with the recipe's rate for the mapper and Custom Diffusion's for the weights.

    [learn.custom_personamagic] of the base's pmagic.toml stands above both, `overrides` above all.
    """
    mapper_rate = recipes.settings_for(recipe, base_defaults).learning_rate
    learn = {
        **recipes.of_base(recipe, base_defaults),
        "token_rate": mapper_rate,
        **OWN,
        **base_defaults.get("learn", {}).get("custom_personamagic", {}),
    }
    return recipes.settings_for(recipe, {**base_defaults, "learn": learn}, **overrides)


def make_learner(base: Base, subject: Subject, settings: LearnSettings) -> _weights.WeightLearner:
    """An untrained mapper and a difference of zero."""
    return _weights.make_learner(base, settings, personamagic.make_learner(base, subject, settings))


def learn(
    base: Base,
    subject: Subject,
    settings: LearnSettings,
    on_step: Callable[[StepReport], None] = lambda report: None,
    checkpoint: Path | None = None,
) -> Persona:
    """Train a mapper and the projections on the subject; if the settings have no bounds, the probe finds them.

    Raises the errors of `training.train`.
    """
    if settings.bounds is None:
        found = probe.probe(base, subject, settings)
        persona = learn(base, subject, replace(settings, bounds=found.bounds), on_step, checkpoint)
        return probe.with_probe_result(persona, found.curve, found.fallback_reason)
    learner = make_learner(base, subject, settings)
    return _weights.learn("custom_personamagic", base, subject, settings, learner, on_step, checkpoint)


def apply(base: Base, personas: Sequence[Persona]) -> AbstractContextManager[list[EmbeddingSchedule]]:
    """Apply each persona's embeddings and the sum of their differences.

    Raises Incompatible for a persona of another base.
    """
    return _weights.apply_weights(base, personas, personamagic.schedule_of)
