"""Methods of learning a person, one file each. The contract of a file on this shelf (read personamagic first):

TRAINED: str        what is trained, in one line
SOURCE: str         whose idea it is, and where pmagic's code for it comes from, in one line
HAS_STAGES: bool    whether it has the stages and losses by which recipes and ablations differ; a method without them is
                    one row of an evaluation
settings_for(recipe, base_defaults, **overrides) -> LearnSettings
                    the base's values, overridden by the method's own, overridden by the user's; only a method with
                    stages may leave the bounds None, for the probe to find
count_weights(spec, settings) -> int
                    the number of trained values, known before the base is opened; used to estimate memory
kept_bytes(spec, settings) -> int
                    optional: the stored bytes, if that is not every trained value in float32
make_learner(base, subject, settings) -> nn.Module
                    an untrained learner for settings with bounds, as engine.training calls it; used to estimate time
learn(base, subject, settings, on_step=..., checkpoint=None) -> Persona
                    trains such a learner
apply(base, personas) context manager -> one EmbeddingSchedule per persona, in their order. It gets all personas of the
                    method in a prompt at once. On exit the base is restored, also after an error
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from pmagic import shelf
from pmagic.errors import Incompatible, NotFound
from pmagic.persona import Persona

if TYPE_CHECKING:
    from torch import nn

    from pmagic.bases.loading import Base
    from pmagic.bases.model_spec import ModelSpec
    from pmagic.engine.composing import EmbeddingSchedule
    from pmagic.engine.recipes import LearnSettings
    from pmagic.engine.subject import Subject
    from pmagic.engine.training import StepReport


SHELF = "methods"
DEFAULT = "personamagic"  # the method if none is named
PERSONA_FIXED = 20_000  # bytes of a persona besides its weights


class Method(Protocol):
    """The interface of every module on this shelf."""

    TRAINED: str
    SOURCE: str
    HAS_STAGES: bool

    def settings_for(self, recipe: str, base_defaults: Mapping[str, Any], **overrides: Any) -> LearnSettings: ...

    def count_weights(self, spec: ModelSpec, settings: LearnSettings) -> int: ...

    def make_learner(self, base: Base, subject: Subject, settings: LearnSettings) -> nn.Module: ...

    def learn(
        self,
        base: Base,
        subject: Subject,
        settings: LearnSettings,
        on_step: Callable[[StepReport], None] = ...,
        checkpoint: Path | None = None,
    ) -> Persona: ...

    def apply(self, base: Base, personas: Sequence[Persona]) -> AbstractContextManager[Sequence[EmbeddingSchedule]]: ...


def names() -> list[str]:
    """Every method on the shelf, the default first, without importing any of them."""
    return sorted(shelf.names(SHELF), key=lambda name: (name != DEFAULT, name))


def require(name: str) -> None:
    """Raises NotFound for a name that is not on the shelf; imports no torch."""
    if name not in names():
        raise NotFound(f"there is no method {name!r}", f"choose one of: {', '.join(sorted(names()))}")


def take(name: str) -> Method:
    """The module of that name. Raises NotFound if there is none."""
    require(name)
    return cast(Method, shelf.take(SHELF, name))


def persona_bytes(method: Method, spec: ModelSpec, settings: LearnSettings) -> int:
    """The approximate size in bytes of a persona with these settings on disk: its weights and its record."""
    kept_bytes: Callable[[ModelSpec, LearnSettings], int] | None = getattr(method, "kept_bytes", None)
    if kept_bytes is not None:
        return PERSONA_FIXED + kept_bytes(spec, settings)
    return PERSONA_FIXED + 4 * method.count_weights(spec, settings)


def persona_of(
    method: str,
    base: Base,
    subject: Subject,
    settings: LearnSettings,
    learner: nn.Module,
    losses: Mapping[str, float],
) -> Persona:
    """The persona of an embedding method, with all settings that determined the result.

    The learner's weights are stored under `learner.`, next to the mean of the photos' image embeddings.
    """
    import diffusers
    import torch
    import transformers

    import pmagic

    assert settings.bounds is not None  # training needs them
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
            # the UNet's compute type; on a GPU all its weights are kept in this type, and nothing is autocast
            "autocast": "" if base.compute_dtype is None else str(base.compute_dtype).removeprefix("torch."),
            "compiled": base.compiled,
            "versions": {each.__name__: each.__version__ for each in (pmagic, torch, diffusers, transformers)},
        },
        losses=losses,
        photos=subject.hashes,
    )


def report_persona(
    on_step: Callable[[StepReport], None], finished: Callable[[Mapping[str, float]], Persona]
) -> Callable[[StepReport], None]:
    """Wrap `on_step` so that its reports can make the persona of the current step on request."""
    return lambda report: on_step(replace(report, persona=lambda: finished(report.losses)))


def require_base(base: Base, persona: Persona) -> None:
    """Raises Incompatible unless the persona was learned on exactly these weights."""
    if persona.fingerprint != base.fingerprint:
        other = f"{base.name} with other weights" if persona.base == base.name else base.name
        raise Incompatible(
            f"the persona was learned on {persona.base}, this is {other}",
            "draw it on that base, or learn it again on this one",
        )
