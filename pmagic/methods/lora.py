"""LoRA of DreamBooth (Hu et al. 2022; diffusers' example): low-rank factors for the projections of every attention.

The name is a rare word before the class word; the text encoder is not trained.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pmagic.bases.loading import Base
from pmagic.engine.composing import EmbeddingSchedule
from pmagic.engine.recipes import LearnSettings
from pmagic.engine.subject import Subject
from pmagic.engine.training import StepReport
from pmagic.methods import _weights
from pmagic.persona import Persona

# The documented command of diffusers' example; its loss has no mask.
OWN: Mapping[str, Any] = {
    "tokens": 2,
    "bounds": (0, 1000),
    "losses": {"mse": 1.0},
    "templates": ["a photo of {}"],
    "weights": "attention",
    "rank": 4,
    "learning_rate": 1e-4,
    "batch": 1,
    "iterations": 500,
    "clip": 1.0,
}


TRAINED = "factors of low rank beside the UNet's attention"
SOURCE = (
    "LoRA (Hu et al., ICLR 2022, arXiv 2106.09685) by diffusers' DreamBooth example (Apache-2.0), "
    "written anew here under Apache-2.0"
)
HAS_STAGES = False

count_weights, kept_bytes = _weights.count_weights, _weights.kept_bytes


def settings_for(recipe: str, base_defaults: Mapping[str, Any], **overrides: Any) -> LearnSettings:
    return _weights.settings_for("lora", OWN, recipe, base_defaults, **overrides)


def make_learner(base: Base, subject: Subject, settings: LearnSettings) -> _weights.WeightLearner:
    """A difference of zero, and the rare name before the class word."""
    phrase = _weights.rare_phrase(base, subject, settings, trained=False)
    return _weights.make_learner(base, settings, phrase)


def learn(
    base: Base,
    subject: Subject,
    settings: LearnSettings,
    on_step: Callable[[StepReport], None] = lambda report: None,
    checkpoint: Path | None = None,
) -> Persona:
    """Train the factors on the subject. Raises the errors of `training.train`."""
    return _weights.learn("lora", base, subject, settings, make_learner(base, subject, settings), on_step, checkpoint)


def apply(base: Base, personas: Sequence[Persona]) -> AbstractContextManager[list[EmbeddingSchedule]]:
    """Apply the sum of the personas' differences. Raises Incompatible for a persona of another base."""
    return _weights.apply_weights(base, personas, _weights.phrase_of)
