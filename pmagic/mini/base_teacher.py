"""The base's training loss: its training data is noised, and the UNet's error in predicting the noise is measured.

Twins (world 2) are two pictures that differ in the layout alone. If the data has twins, half of each batch are twins at
the same timestep and noise, so that only the layout words distinguish one from the other.
"""

# B batch . h, w of the latents

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pmagic.mini import vocabulary
from pmagic.mini.base_material import NAMES_A_CAPTION, Captions, Material
from pmagic.mini.base_networks import NAME_TOKENS, WIDTH, Networks, noise_schedule
from pmagic.mini.training import autocast

LEVELS = 20  # equal parts of the schedule, whose errors have equal weight
EARLY = 0.7  # timesteps are drawn as 1000 u^EARLY: one in ten lies below 200, where text cannot matter
EARLY_IN_WORLD_2 = 0.55  # for the first half of a run on world 2, as the layout is decided above t = 500
EARLY_OF_TWINS = 0.3  # half of them above 810, where noise hides the layout and only the words state it
EARLY_OF_SHORTS = 0.15  # half of them above 900
PROMPT_DROP = 0.1
# The largest noise added to a name's embeddings, in units of their length. A mapper starts anywhere: the text encoder
# must read any embedding near the names as the nearest name, or no gradient leads from there to a face.
NAME_NOISE = 1.0
BLIND = 0.5  # share of the captions whose end and padding cross-attention cannot see, so that it attends to words
FACE_WEIGHT = 1.0  # the face's additional weight in the loss, so that likeness is learned early


@dataclass(frozen=True)
class Mixture:
    """The composition of a batch. twins: share of the batch. short: share of the twins with a short caption."""

    twins: float = 0.5
    short: float = 0.2
    early: float = EARLY  # exponent EARLY for single pictures


# Short captions with sides come first. Among a dozen other words, "left" and "right" were not learned in 16,000 samples
# (a wrong side changed the error by -0.02 %). In short captions at much noise they were learned in 4,800 (2 % more
# error with the wrong side, also in long captions).
SIDES_FIRST = Mixture(twins=0.75, short=1.0, early=EARLY_IN_WORLD_2)
THEN = Mixture(early=EARLY_IN_WORLD_2)
AT_LAST = Mixture()


def mixture(share: float) -> Mixture:
    """The batch composition after this share of a run."""
    return SIDES_FIRST if share < 0.15 else THEN if share < 0.5 else AT_LAST


@dataclass(frozen=True)
class Batch:
    """B rows of the training data, their captions, and the noise to predict."""

    rows: Tensor  # (B,)
    said: Captions
    t: Tensor  # (B,)
    noise: Tensor  # (B, 4, h, w)


class Teacher:
    """Draws batches, runs the networks on them and measures the error."""

    def __init__(
        self, given: Material, networks: Networks, predict: Callable[..., Any], random: torch.Generator,
        name_noise: float = NAME_NOISE,
    ) -> None:  # fmt: skip
        """predict: the networks' UNet, compiled or not. All tensors are on the device of `given`."""
        self.given, self.networks, self.predict, self.random = given, networks, predict, random
        self.noise = noise_schedule()
        self.place = given.latents.device
        self.usual = torch.zeros(LEVELS, device=self.place)
        self.places = torch.arange(vocabulary.LENGTH, device=self.place)
        self.name_noise = name_noise

    def losses(self, batch: int, mixture: Mixture = AT_LAST) -> tuple[Tensor, Tensor]:
        """The relative mean error of the predicted noise, which is trained on, and the mean error, for a random batch.

        mixture: applies to data with twins; without twins, all pictures are single.
        """
        given, normal = self.given, {"generator": self.random, "device": self.place}
        pairs = int(batch * mixture.twins) // 2 if given.layouts else 0
        short = round(pairs * mixture.short)
        asked = self._singles(batch - 2 * pairs, mixture.early if given.layouts else EARLY)
        if pairs - short:
            asked = _join(self._twins(pairs - short), asked)
        if short:
            asked = _join(self._short_twins(short), asked)
        rows, said, t, target = asked.rows, asked.said, asked.t, asked.noise
        seen = ((self.places < said.lengths.unsqueeze(1)) | ~self._chance(BLIND, batch).unsqueeze(1)).float()
        noisy = self.noise.add_noise(given.latents[rows].float(), target, t)
        level = self.name_noise * torch.rand(batch, 1, 1, **normal).square()
        blur = torch.randn(batch, NAMES_A_CAPTION * NAME_TOKENS, WIDTH, **normal) * level / WIDTH**0.5
        with autocast(self.place):
            states = self.networks.say(said.ids.long(), said.placeholder_index.long(), given.traits[rows], blur)
            predicted = self.predict(noisy, t, states, encoder_attention_mask=seen).sample
        error = (predicted.float() - target).square() * (1 + FACE_WEIGHT * given.faces[rows].float())
        error = error.mean((1, 2, 3))
        return (error / self._usual(t, error.detach())).mean(), error.detach().mean()

    def _singles(self, count: int, early: float) -> Batch:
        """Random single pictures, some of them without their caption."""
        given, normal = self.given, {"generator": self.random, "device": self.place}
        rows = torch.randint(len(given.latents), (count,), **normal)
        dropped = self._chance(PROMPT_DROP, count)
        empty = given.empty.rows(torch.randint(len(given.empty.ids), (count,), **normal))
        said = empty.where(dropped, given.said.rows(rows))
        noise = torch.randn(count, *given.latents.shape[1:], **normal)
        return Batch(rows, said, self._times(count, early), noise)

    def _twins(self, pairs: int) -> Batch:
        """Both twins of random pairs, with captions that state the layout."""
        assert self.given.layouts is not None
        first = 2 * torch.randint(len(self.given.latents) // 2, (pairs,), generator=self.random, device=self.place)
        return self._both(first, self.given.layouts, EARLY_OF_TWINS)

    def _short_twins(self, pairs: int) -> Batch:
        """Both twins of random pictures of one person at the left or the right, with short captions about the side."""
        assert self.given.shorts is not None and self.given.sided is not None
        chosen = torch.randint(len(self.given.sided), (pairs,), generator=self.random, device=self.place)
        return self._both(self.given.sided[chosen], self.given.shorts, EARLY_OF_SHORTS)

    def _both(self, first: Tensor, said: Captions, early: float) -> Batch:
        """First and second twins, each pair at the same timestep and noise. first: rows of the first twins."""
        rows = torch.cat([first, first + 1])
        shape = (len(first), *self.given.latents.shape[1:])
        noise = torch.randn(shape, generator=self.random, device=self.place).repeat(2, 1, 1, 1)
        return Batch(rows, said.rows(rows), self._times(len(first), early).repeat(2), noise)

    def _times(self, count: int, early: float) -> Tensor:
        """One timestep from each of `count` equal parts, which has less variance than independent draws."""
        uniform = torch.rand(count, generator=self.random, device=self.place)
        even = (torch.arange(count, device=self.place) + uniform) / count
        return (1000 * even**early).long()

    def _chance(self, share: float, batch: int) -> Tensor:
        return torch.rand(batch, generator=self.random, device=self.place) < share

    def _usual(self, t: Tensor, error: Tensor) -> Tensor:
        """The usual error at each t: a running mean that includes this batch.

        Text can explain about the same share of the error at every t, while the error itself falls by a factor of
        forty. Relative to the usual error, all timesteps teach equally (Karras et al. 2024, "EDM2", simplified).
        """
        level = t * LEVELS // 1000
        count = torch.zeros_like(self.usual).index_add_(0, level, torch.ones_like(error))
        now = torch.zeros_like(self.usual).index_add_(0, level, error) / count.clamp(min=1)
        known = torch.where(self.usual > 0, self.usual + 0.05 * (now - self.usual), now)
        self.usual = torch.where(count > 0, known, self.usual)
        return self.usual[level]


def _join(first: Batch, second: Batch) -> Batch:
    fields = ("ids", "placeholder_index", "lengths")
    said = Captions(*(torch.cat([getattr(first.said, each), getattr(second.said, each)]) for each in fields))
    return Batch(
        torch.cat([first.rows, second.rows]),
        said,
        torch.cat([first.t, second.t]),
        torch.cat([first.noise, second.noise]),
    )
