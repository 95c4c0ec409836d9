"""The context: what one process needs to evaluate subjects. It is opened once and used for all of them."""

from dataclasses import dataclass, field
from functools import cached_property

import torch

from pmagic import datasets
from pmagic.bases import loading
from pmagic.bases import model_spec as specs
from pmagic.bases.loading import Base
from pmagic.bases.model_spec import ModelSpec
from pmagic.datasets import Individual
from pmagic.engine import prompts, subject
from pmagic.engine.step_cache import UNetCache
from pmagic.errors import Incompatible
from pmagic.evaluation import observers, scales
from pmagic.evaluation.eval_config import FACE, EvalConfig
from pmagic.evaluation.metrics import Scale
from pmagic.evaluation.observers import Observers
from pmagic.evaluation.variants import Variant, variants


@dataclass(frozen=True, kw_only=True)
class EvalContext:
    """answers: the cached UNet outputs of the steps that all subjects share."""

    config: EvalConfig
    base: Base
    observers: Observers
    variants: list[Variant]
    answers: UNetCache = field(default_factory=UNetCache)
    _scales: dict[tuple[int, tuple[int, int]], Scale | None] = field(default_factory=dict)

    @property
    def plain_prompts(self) -> tuple[str, ...]:
        """The prompts, with the plain word in place of the name."""
        return tuple(prompts.substitute_names(each, {"": FACE}) for each in self.config.prompts)

    def scale(self, prompt: int, size: tuple[int, int]) -> Scale | None:
        """The identity scale of a prompt, counted from 0, for pictures of this size. It is measured once."""
        if (prompt, size) not in self._scales:
            self._scales[prompt, size] = scales.measure(self.observers, self._panel, self.config.prompts[prompt], size)
        return self._scales[prompt, size]

    @cached_property
    def _panel(self) -> list[Individual]:
        return datasets.panel(self.config.dataset, self.config.photos)


def variants_of(config: EvalConfig, spec: ModelSpec) -> list[Variant]:
    """The variants of an evaluation; this needs no weights. Raises UsageError."""
    return variants(config.methods, config.recipes, config.ablation, spec.defaults, config.pictures, config.iterations)


def require_observers(spec: ModelSpec, compared: list[Variant]) -> None:
    """Raise WeightsMissing if an observer is not on this machine, before any model is opened."""
    recognised = any(each.learn.looks_at_faces for each in compared)
    subject.require_observers(spec, "face", masked=False, recognised=recognised)
    observers.identity(spec)


def open_context(config: EvalConfig, fingerprint: str = "") -> EvalContext:
    """Load everything that an evaluation needs into memory.

    On a CPU each process uses one thread. With more threads the bits of a sum would depend on their number, and so the
    results on the machine's cores. More processes use more cores.

    fingerprint: the expected fingerprint of the base, "" for any; Incompatible is raised if it differs. Raises as
    model_spec.resolve, loading.load and observers.observers.
    """
    spec = specs.require_weights(specs.resolve(config.base))
    base = loading.load(spec, device=config.device, dtype=config.dtype)
    if fingerprint and base.fingerprint != fingerprint:
        raise Incompatible(
            f"the base {config.base} of this worker has other weights", "put the same base on each machine"
        )
    if base.device.type == "cpu":
        torch.set_num_threads(1)
    return EvalContext(
        config=config,
        base=base,
        observers=observers.observers(spec, str(base.device)),
        variants=variants_of(config, spec),
    )
