"""The bench: what one process needs to evaluate people, opened once and used for all of them."""

from dataclasses import dataclass, field
from functools import cached_property

import torch

from pmagic import datasets
from pmagic.bases import card as cards
from pmagic.bases import loading
from pmagic.bases.card import Card
from pmagic.bases.loading import Base
from pmagic.datasets import Individual
from pmagic.engine import prompts, subject
from pmagic.engine.sharing import Answers
from pmagic.errors import Incompatible
from pmagic.evaluation import observers, scales
from pmagic.evaluation.metrics import Scale
from pmagic.evaluation.observers import Observers
from pmagic.evaluation.order import FACE, Order
from pmagic.evaluation.variants import Variant, variants


@dataclass(frozen=True)
class Bench:
    """answers: the UNet's, of the steps that all people share."""

    order: Order
    base: Base
    observers: Observers
    variants: list[Variant]
    answers: Answers = field(default_factory=dict)
    _scales: dict[tuple[int, tuple[int, int]], Scale | None] = field(default_factory=dict)

    @property
    def spoken(self) -> tuple[str, ...]:
        """The prompts with the plain word where the name stands."""
        return tuple(prompts.spoken(each, {"": FACE}) for each in self.order.prompts)

    def scale(self, prompt: int, size: tuple[int, int]) -> Scale | None:
        """How like the data set's own drawings by a prompt, counted from 0, are in this size; measured once."""
        if (prompt, size) not in self._scales:
            self._scales[prompt, size] = scales.measure(self.observers, self._panel, self.order.prompts[prompt], size)
        return self._scales[prompt, size]

    @cached_property
    def _panel(self) -> list[Individual]:
        return datasets.panel(self.order.dataset, self.order.photos)


def compared(order: Order, card: Card) -> list[Variant]:
    """The order's variants; needs no weights. Raises UsageProblem."""
    return variants(order.recipes, order.ablation, card.defaults, order.pictures, order.iterations)


def require_observers(card: Card, compared: list[Variant]) -> None:
    """WeightsMissing, before anything is opened, for what an evaluation would lack on this machine."""
    recognised = any(each.learn.looks_at_faces for each in compared)
    subject.require_observers(card, "face", masked=False, recognised=recognised)
    observers.identity(card)


def opened(order: Order, fingerprint: str = "") -> Bench:
    """Everything that an order needs, in memory. On a CPU a process computes in one thread: with more, the bits of a
    sum would depend on how many there are, and one machine's results on its cores; more processes use more cores.

    fingerprint: of the base that it must be, "" for any. Raises as card.find, loading.load and observers.observers do.
    """
    card = cards.require_weights(cards.find(order.base))
    base = loading.load(card, device=order.device, dtype=order.dtype)
    if fingerprint and base.fingerprint != fingerprint:
        raise Incompatible(
            f"the base {order.base} of this worker has other weights", "put the same base on each machine"
        )
    if base.device.type == "cpu":
        torch.set_num_threads(1)
    return Bench(order, base, observers.observers(card, str(base.device)), compared(order, card))
