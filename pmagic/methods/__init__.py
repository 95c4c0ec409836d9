"""Methods of learning a person, one file each. The contract of a file on this shelf (read personamagic first):

settings_for(recipe, base_defaults, **overrides) -> LearnSettings
learn(base, subject, settings, on_step=..., checkpoint=None) -> Persona
wear(base, persona)     context manager -> EmbeddingSchedule; on exit the base is exactly as before, also after an error
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pmagic.errors import Incompatible
from pmagic.persona import Persona

if TYPE_CHECKING:
    from torch import nn

    from pmagic.bases.loading import Base
    from pmagic.engine.composing import EmbeddingSchedule
    from pmagic.engine.recipes import LearnSettings
    from pmagic.engine.subject import Subject
    from pmagic.engine.training import StepReport


class Method(Protocol):
    """What every module on this shelf offers."""

    def settings_for(self, recipe: str, base_defaults: Mapping[str, Any], **overrides: Any) -> LearnSettings: ...

    def learn(
        self,
        base: Base,
        subject: Subject,
        settings: LearnSettings,
        on_step: Callable[[StepReport], None] = ...,
        checkpoint: Path | None = None,
    ) -> Persona: ...

    def wear(self, base: Base, persona: Persona) -> AbstractContextManager[EmbeddingSchedule]: ...


def persona_of(
    method: str,
    base: Base,
    subject: Subject,
    settings: LearnSettings,
    learner: nn.Module,
    losses: Mapping[str, float],
) -> Persona:
    """The persona of an embedding method, with all settings that decided the result.

    The learner's weights are stored under `learner.`, and the mean of the photos' embeddings beside them.
    """
    import diffusers
    import torch
    import transformers

    import pmagic

    assert settings.bounds is not None  # learned in these stages
    tensors = {f"learner.{name}": weight.detach() for name, weight in learner.named_parameters()}
    tensors["image_embedding"] = subject.image_embedding.mean(dim=0)
    return Persona(
        method=method,
        base=base.name,
        fingerprint=base.fingerprint,
        word=subject.word,
        bounds=settings.bounds,
        tensors={name: tensor.float().cpu().numpy() for name, tensor in tensors.items()},
        settings={
            **settings.as_table(),
            "device": base.device.type,
            # the UNet's type; on a GPU all of it is kept in it, and nothing is autocast
            "autocast": "" if base.fast is None else str(base.fast).removeprefix("torch."),
            "compiled": base.compiled,
            "versions": {each.__name__: each.__version__ for each in (pmagic, torch, diffusers, transformers)},
        },
        losses=losses,
        photos=subject.hashes,
    )


def report_persona(
    on_step: Callable[[StepReport], None], finished: Callable[[Mapping[str, float]], Persona]
) -> Callable[[StepReport], None]:
    """`on_step` with reports that can also make the persona of the current step, only when they are asked to."""
    return lambda report: on_step(replace(report, persona=lambda: finished(report.losses)))


def require_base(base: Base, persona: Persona) -> None:
    """Incompatible unless the persona was learned on exactly these weights."""
    if persona.fingerprint != base.fingerprint:
        other = f"{base.name} with other weights" if persona.base == base.name else base.name
        raise Incompatible(
            f"the persona was learned on {persona.base}, this is {other}",
            "draw it on that base, or learn it again on this one",
        )
