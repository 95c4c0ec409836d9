"""Persona and StageBounds: the values that learning returns, the library keeps and rendering uses.

Pure values: a persona does not know its name, its version or where it is stored, and nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `pmagic list` starts without numpy
    import numpy as np


class Stage(Enum):
    """The three parts of the schedule, in the order in which sampling passes through them (paper, Sec. 3.1)."""

    FIRST_STATIC = "first static"  # t >= high: the super-category word stands for the name
    DYNAMIC = "dynamic"  # low <= t < high: learned embeddings of this t
    SECOND_STATIC = "second static"  # t < low: the conditioning of the last dynamic step is reused


@dataclass(frozen=True)
class StageBounds:
    """The dynamic interval [low, high) in training timesteps, 0 <= low < high <= 1000."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1000:
            raise ValueError(f"stage bounds must satisfy 0 <= low < high <= 1000, got {self.low}:{self.high}")

    def stage(self, t: float) -> Stage:
        if t >= self.high:
            return Stage.FIRST_STATIC
        return Stage.DYNAMIC if t >= self.low else Stage.SECOND_STATIC


REFERENCE_BOUNDS = StageBounds(400, 800)
WEIGHTS = "weights."  # how the names of a persona's weight differences begin
MAX_TOKENS = 64  # learned tokens for one name; a prompt has room for 75


@dataclass(frozen=True, kw_only=True)
class Persona:
    """What was learned of one subject on one base model.

    tensors: method-specific weights by name, float32 or float16 arrays (mapper weights, image embedding, ...).
    settings: everything that decided the outcome (recipe, iterations, learning rate, seed, library versions, ...);
        only str, int, float, bool and lists or tables of these, so that it can be written as TOML.
    losses: last running mean of each loss term. curve: (t, IoU) pairs of the probe, largest t first; empty without one.
    photos: SHA-256 of each photo learned from, never the photo.
    """

    method: str  # a name on the `methods` shelf
    base: str  # what the base was called when learning: "mini", "sd14", a hub id or a folder's last name
    fingerprint: str  # SHA-256 over the base's weights
    word: str  # super-category: "face", "cat", "painting", ...
    bounds: StageBounds
    tensors: Mapping[str, np.ndarray]
    settings: Mapping[str, object] = field(default_factory=dict[str, object])
    losses: Mapping[str, float] = field(default_factory=dict[str, float])
    curve: tuple[tuple[int, float], ...] = ()
    photos: tuple[str, ...] = ()
    preview: bytes = b""  # a small PNG drawn from the persona, empty without one

    @property
    def changes_weights(self) -> bool:
        """Whether it has differences of the base's weights."""
        return any(name.startswith(WEIGHTS) for name in self.tensors)
