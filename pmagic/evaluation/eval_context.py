"""The bench: what one process needs to evaluate people, opened once and used for all of them."""

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
    """answers: the UNet's, of the steps that all people share."""

    config: EvalConfig
    base: Base
    observers: Observers
    variants: list[Variant]
    answers: UNetCache = field(default_factory=UNetCache)
    _scales: dict[tuple[int, tuple[int, int]], Scale | None] = field(default_factory=dict)

    @property
    def spoken(self) -> tuple[str, ...]:
        """The prompts with the plain word where the name stands."""
        return tuple(prompts.substitute_names(each, {"": FACE}) for each in self.config.prompts)

    def scale(self, prompt: int, size: tuple[int, int]) -> Scale | None:
        """How like the data set's own drawings by a prompt, counted from 0, are in this size; measured once."""
        if (prompt, size) not in self._scales:
            self._scales[prompt, size] = scales.measure(self.observers, self._panel, self.config.prompts[prompt], size)
        return self._scales[prompt, size]

    @cached_property
    def _panel(self) -> list[Individual]:
        return datasets.panel(self.config.dataset, self.config.photos)


def variants_of(config: EvalConfig, spec: ModelSpec) -> list[Variant]:
    """The order's variants; needs no weights. Raises UsageError."""
    return variants(config.methods, config.recipes, config.ablation, spec.defaults, config.pictures, config.iterations)


def require_observers(spec: ModelSpec, compared: list[Variant]) -> None:
    """WeightsMissing, before anything is opened, for what an evaluation would lack on this machine."""
    recognised = any(each.learn.looks_at_faces for each in compared)
    subject.require_observers(spec, "face", masked=False, recognised=recognised)
    observers.identity(spec)


def open_context(config: EvalConfig, fingerprint: str = "") -> EvalContext:
    """Everything that an order needs, in memory. On a CPU a process computes in one thread: with more, the bits of a
    sum would depend on how many there are, and one machine's results on its cores; more processes use more cores.

    fingerprint: of the base that it must be, "" for any. Raises as model_spec.resolve, loading.load and
    observers.observers do.
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
