"""Textual inversion (Gal et al., ICLR 2023): one free token embedding for every timestep. The baseline.

It shares the training loop, the step budget and the renderer with personamagic, but has no stages, image or residual.
"""

# B batch . n placeholder tokens . w text width

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pmagic.bases import memory_estimate
from pmagic.bases.loading import Base
from pmagic.bases.model_spec import ModelSpec
from pmagic.engine import composing, recipes, token_batch, training
from pmagic.engine.composing import EmbeddingSchedule, LearnedTokens
from pmagic.engine.recipes import LearnSettings
from pmagic.engine.subject import Subject
from pmagic.engine.training import StepReport
from pmagic.errors import Incompatible, UsageError
from pmagic.methods import persona_of, report_persona, require_base
from pmagic.persona import Persona, StageBounds

TRAINED = "one token embedding, the same at every timestep"
SOURCE = "Textual Inversion (Gal et al., ICLR 2023, arXiv 2208.01618); pmagic's own code, Apache-2.0"
HAS_STAGES = False

WHOLE = StageBounds(0, 1000)
# The token itself is trained rather than a network that computes it, so its learning rate differs from the mapper's.
OWN: Mapping[str, Any] = {
    "tokens": 1,
    "bounds": (WHOLE.low, WHOLE.high),
    "losses": {"masked_mse": 1.0},
    "learning_rate": 5e-3,
}


def settings_for(recipe: str, base_defaults: Mapping[str, Any], **overrides: Any) -> LearnSettings:
    """As recipes.settings_for, but the base's pmagic.toml does not override OWN: its values are meant for a mapper."""
    learn = {**recipes.of_base(recipe, base_defaults), **OWN}
    return recipes.settings_for(recipe, {**base_defaults, "learn": learn}, **overrides)


class Tokens(nn.Module):
    """n free vectors, each initialized with the super-category's embedding (w,)."""

    def __init__(self, tokens: int, word: Tensor) -> None:
        super().__init__()
        self.vectors = nn.Parameter(word.detach().clone().expand(tokens, -1).clone())

    def forward(self, t: Tensor, image_embedding: Tensor) -> tuple[Tensor, None]:
        """The same tokens (B, n, w) for every t and every photo; the values equal the keys."""
        return self.vectors.expand(len(t), -1, -1), None


def count_weights(spec: ModelSpec, settings: LearnSettings) -> int:
    """The values of the tokens. Raises Incompatible if the base's width cannot be read."""
    return settings.tokens * memory_estimate.text_width(spec)


def make_learner(base: Base, subject: Subject, settings: LearnSettings) -> Tokens:
    """The untrained tokens: n copies of the plain word's embedding."""
    return Tokens(settings.tokens, token_batch.word_embedding(base, subject.word).to(base.learner_dtype))


def learn(
    base: Base,
    subject: Subject,
    settings: LearnSettings,
    on_step: Callable[[StepReport], None] = lambda report: None,
    checkpoint: Path | None = None,
) -> Persona:
    """Train the tokens on the subject. Raises the errors of `training.train`, and UsageError for other bounds."""
    assert settings.bounds is not None  # this method's own settings have them
    if settings.bounds != WHOLE:
        raise UsageError(
            f"textual inversion has no stages, so no bounds {settings.bounds.low}:{settings.bounds.high}",
            "leave the bounds out",
        )
    context = training.prepare_training(base, subject, settings)
    tokens = make_learner(base, subject, settings)
    finished = partial(persona_of, "textual_inversion", base, subject, settings, tokens)
    return finished(training.train(context, tokens, report_persona(on_step, finished), checkpoint))


@contextmanager
def apply(base: Base, personas: Sequence[Persona]) -> Iterator[list[EmbeddingSchedule]]:
    """Apply the same tokens at all timesteps. Raises Incompatible for a persona of another base."""
    yield [_schedule(base, each) for each in personas]


def _schedule(base: Base, persona: Persona) -> EmbeddingSchedule:
    require_base(base, persona)
    vectors = persona.tensors.get("learner.vectors")
    width = base.pipeline.text_encoder.config.hidden_size
    if vectors is None or vectors.ndim != 2 or vectors.shape[-1] != width:
        raise Incompatible("the persona's tensors are not those of textual inversion", "learn it again")
    return composing.constant_schedule(
        LearnedTokens(torch.tensor(vectors, dtype=base.learner_dtype, device=base.device), residual=None)
    )
