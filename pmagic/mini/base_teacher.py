"""How the base is taught: noised pictures of its material, and by how much it errs in finding the noise.

Of a material in twins (world 2), which differ in the layout alone, half of each batch are twins at the same timestep
and noise, so that nothing but the words of the layout tells one from the other.
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

LEVELS = 20  # equal parts of the schedule, whose errors count alike
EARLY = 0.7  # timesteps are drawn as 1000 u^EARLY: below 200, where no text can tell, one in ten
EARLY_IN_WORLD_2 = 0.55  # for the first half of a run on world 2, as layout is decided above t = 500
EARLY_OF_TWINS = 0.3  # half of them above 810, where noise hides who stands where and the words alone tell
EARLY_OF_SHORTS = 0.15  # half of them above 900
PROMPT_DROP = 0.1
# Most that is added to a name's embeddings, in their length. A mapper begins anywhere: whatever lies beside the names
# has to be read as the nearest of them, or no gradient leads from there to a face.
NAME_NOISE = 1.0
BLIND = 0.5  # share of the captions whose end and padding cross-attention does not see, so that it looks at the words
FACE_WEIGHT = 1.0  # what the face counts more than the rest, so that likeness is learned early


@dataclass(frozen=True)
class Mixture:
    """What batches are made of. twins: share of a batch. short: share of the twins with a short caption."""

    twins: float = 0.5
    short: float = 0.2
    early: float = EARLY  # of single pictures


# Sides first: between a dozen other words "left" and "right" were not learned in 16,000 samples (the error of a wrong
# side grew by -0.02 %), in short captions at much noise in 4,800 (by 2 %, also where they stand in long ones).
SIDES_FIRST = Mixture(twins=0.75, short=1.0, early=EARLY_IN_WORLD_2)
THEN = Mixture(early=EARLY_IN_WORLD_2)
AT_LAST = Mixture()


def mixture(share: float) -> Mixture:
    """What a run teaches when this share of it is done."""
    return SIDES_FIRST if share < 0.15 else THEN if share < 0.5 else AT_LAST


@dataclass(frozen=True)
class Batch:
    """B rows of the material, what is said of them, and the noise to find."""

    rows: Tensor  # (B,)
    said: Captions
    t: Tensor  # (B,)
    noise: Tensor  # (B, 4, h, w)


class Teacher:
    """What the networks are asked, batch by batch, and how wrong they are."""

    def __init__(
        self, given: Material, networks: Networks, predict: Callable[..., Any], random: torch.Generator,
        name_noise: float = NAME_NOISE,
    ) -> None:  # fmt: skip
        """predict: the networks' UNet, compiled or not. All at the place of `given`."""
        self.given, self.networks, self.predict, self.random = given, networks, predict, random
        self.noise = noise_schedule()
        self.place = given.latents.device
        self.usual = torch.zeros(LEVELS, device=self.place)
        self.places = torch.arange(vocabulary.LENGTH, device=self.place)
        self.name_noise = name_noise

    def losses(self, batch: int, mixture: Mixture = AT_LAST) -> tuple[Tensor, Tensor]:
        """Of a random batch: the mean relative error of the noise found, which is trained on, and the mean error.

        mixture: of a material with twins; without, all pictures are single.
        """
        given, normal = self.given, {"generator": self.random, "device": self.place}
        pairs = int(batch * mixture.twins) // 2 if given.layouts else 0
        short = round(pairs * mixture.short)
        asked = self._singles(batch - 2 * pairs, mixture.early if given.layouts else EARLY)
        if pairs - short:
            asked = _joined(self._twins(pairs - short), asked)
        if short:
            asked = _joined(self._short_twins(short), asked)
        rows, said, t, target = asked.rows, asked.said, asked.t, asked.noise
        seen = ((self.places < said.lengths.unsqueeze(1)) | ~self._chance(BLIND, batch).unsqueeze(1)).float()
        noisy = self.noise.add_noise(given.latents[rows].float(), target, t)
        level = self.name_noise * torch.rand(batch, 1, 1, **normal).square()
        blur = torch.randn(batch, NAMES_A_CAPTION * NAME_TOKENS, WIDTH, **normal) * level / WIDTH**0.5
        with autocast(self.place):
            states = self.networks.say(said.ids.long(), said.slots.long(), given.traits[rows], blur)
            predicted = self.predict(noisy, t, states, encoder_attention_mask=seen).sample
        error = (predicted.float() - target).square() * (1 + FACE_WEIGHT * given.faces[rows].float())
        error = error.mean((1, 2, 3))
        return (error / self._usual(t, error.detach())).mean(), error.detach().mean()

    def _singles(self, count: int, early: float) -> Batch:
        """Pictures at random, some of them without their caption."""
        given, normal = self.given, {"generator": self.random, "device": self.place}
        rows = torch.randint(len(given.latents), (count,), **normal)
        dropped = self._chance(PROMPT_DROP, count)
        empty = given.empty.rows(torch.randint(len(given.empty.ids), (count,), **normal))
        said = empty.where(dropped, given.said.rows(rows))
        noise = torch.randn(count, *given.latents.shape[1:], **normal)
        return Batch(rows, said, self._times(count, early), noise)

    def _twins(self, pairs: int) -> Batch:
        """Both twins of pictures at random, with the layout said."""
        assert self.given.layouts is not None
        first = 2 * torch.randint(len(self.given.latents) // 2, (pairs,), generator=self.random, device=self.place)
        return self._both(first, self.given.layouts, EARLY_OF_TWINS)

    def _short_twins(self, pairs: int) -> Batch:
        """Both twins of pictures of one person at the left or the right, with little but the side said."""
        assert self.given.shorts is not None and self.given.sided is not None
        chosen = torch.randint(len(self.given.sided), (pairs,), generator=self.random, device=self.place)
        return self._both(self.given.sided[chosen], self.given.shorts, EARLY_OF_SHORTS)

    def _both(self, first: Tensor, said: Captions, early: float) -> Batch:
        """First and second twins, each two at the same timestep and noise. first: rows of the first ones."""
        rows = torch.cat([first, first + 1])
        shape = (len(first), *self.given.latents.shape[1:])
        noise = torch.randn(shape, generator=self.random, device=self.place).repeat(2, 1, 1, 1)
        return Batch(rows, said.rows(rows), self._times(len(first), early).repeat(2), noise)

    def _times(self, count: int, early: float) -> Tensor:
        """One from each of `count` equal parts: less variance than independent ones."""
        uniform = torch.rand(count, generator=self.random, device=self.place)
        even = (torch.arange(count, device=self.place) + uniform) / count
        return (1000 * even**early).long()

    def _chance(self, share: float, batch: int) -> Tensor:
        return torch.rand(batch, generator=self.random, device=self.place) < share

    def _usual(self, t: Tensor, error: Tensor) -> Tensor:
        """The usual error at each t, a running mean, with this batch's in it.

        What text can tell is a share of the error, at every t about the same, while the error itself falls forty
        times: relative to the usual one, all timesteps teach alike (Karras et al. 2024, "EDM2", in a simpler form).
        """
        level = t * LEVELS // 1000
        count = torch.zeros_like(self.usual).index_add_(0, level, torch.ones_like(error))
        now = torch.zeros_like(self.usual).index_add_(0, level, error) / count.clamp(min=1)
        known = torch.where(self.usual > 0, self.usual + 0.05 * (now - self.usual), now)
        self.usual = torch.where(count > 0, known, self.usual)
        return self.usual[level]


def _joined(first: Batch, second: Batch) -> Batch:
    fields = ("ids", "slots", "lengths")
    said = Captions(*(torch.cat([getattr(first.said, each), getattr(second.said, each)]) for each in fields))
    return Batch(
        torch.cat([first.rows, second.rows]),
        said,
        torch.cat([first.t, second.t]),
        torch.cat([first.noise, second.noise]),
    )
