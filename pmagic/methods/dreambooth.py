"""DreamBooth (Ruiz et al., CVPR 2023; diffusers' example): the whole UNet, under a rare word before the class word.

The text encoder is not trained, as by default in the example. The difference to the base is stored in float16 and with
low rank. With `rank = 0` under [learn.dreambooth] in the base's pmagic.toml it is stored in full, two bytes a weight.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import Tensor

from pmagic.bases.loading import Base
from pmagic.engine import reweighting
from pmagic.engine.composing import EmbeddingSchedule
from pmagic.engine.recipes import LearnSettings
from pmagic.engine.subject import Subject
from pmagic.engine.training import StepReport
from pmagic.methods import _weights
from pmagic.persona import Persona

# diffusers' example without class pictures; its loss has no mask.
OWN: Mapping[str, Any] = {
    "tokens": 2,
    "bounds": (0, 1000),
    "losses": {"mse": 1.0},
    "templates": ["a photo of {}"],
    "weights": "all",
    "rank": 64,
    "learning_rate": 5e-6,
    "batch": 1,
    "iterations": 400,
    "clip": 1.0,
}


TRAINED = "every weight of the UNet"
SOURCE = (
    "DreamBooth (Ruiz et al., CVPR 2023, arXiv 2208.12242) by diffusers' example (Apache-2.0), "
    "written anew here under Apache-2.0"
)
HAS_STAGES = False

count_weights, kept_bytes = _weights.count_weights, _weights.kept_bytes


def settings_for(recipe: str, base_defaults: Mapping[str, Any], **overrides: Any) -> LearnSettings:
    return _weights.settings_for("dreambooth", OWN, recipe, base_defaults, **overrides)


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
    """Train every weight of the UNet on the subject. Raises the errors of `training.train`."""

    def finish(whole: dict[str, Tensor]) -> tuple[dict[str, Tensor], Mapping[str, object]]:
        if not settings.rank:
            return whole, {}
        kept, lost = reweighting.compress(whole, settings.rank)
        return kept, {"lost_to_rank": lost}

    return _weights.learn(
        "dreambooth", base, subject, settings, make_learner(base, subject, settings), on_step, checkpoint, finish
    )


def apply(base: Base, personas: Sequence[Persona]) -> AbstractContextManager[list[EmbeddingSchedule]]:
    """Apply the sum of the personas' differences. Raises Incompatible for a persona of another base."""
    return _weights.apply_weights(base, personas, _weights.phrase_of)
