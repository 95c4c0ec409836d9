"""Randomness: all random values of training, sampled on the CPU from (seed, purpose, step) and nothing else.

No generator is kept from one step to the next, so an interrupted run resumes exactly, on any device, and a run with
fewer losses sees the same photos, timesteps and noise.
"""

# B batch . P photos . C latent channels . h, w latent height and width

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from pmagic.engine.recipes import LearnSettings


@dataclass(frozen=True, kw_only=True)
class StepSample:
    """The random values of one training step."""

    photo: Tensor  # (B,) long, which photo
    t: Tensor  # (B,) long, uniform in [low, high)
    posterior: Tensor  # (B, C, h, w), unit normal: the noise that samples latents from the autoencoder's posterior
    noise: Tensor  # (B, C, h, w), unit normal
    template: Tensor  # (B,) long, which training prompt
    open_prompt: Tensor  # (B,) long, which prompt of tandem equilibrium
    keep: Tensor  # (B,) 0 or 1: whether the training prompt has its residual
    keep_open: Tensor  # (B,) the same for the open prompt, drawn independently
    # Empty without class pictures.
    class_picture: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))  # (B,) long, which one
    class_t: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))  # (B,) long, in [0, 1000)
    class_noise: Tensor = field(default_factory=lambda: torch.zeros(0))  # (B, C, h, w), unit normal

    def to(self, device: torch.device) -> "StepSample":
        return StepSample(**{each.name: getattr(self, each.name).to(device) for each in fields(self)})


def sample_step(
    settings: LearnSettings, step: int, photos: int, latent: tuple[int, ...], dtype: torch.dtype
) -> StepSample:
    """The sample of optimizer step `step` (0 is the first). latent: (C, h, w). dtype: of the noises and of keep."""
    assert settings.bounds is not None  # the probe has set them
    low, high = settings.bounds.low, settings.bounds.high
    source = generator(settings.seed, "step", step)
    batch = settings.batch

    def choice(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (batch,), generator=source)

    def normal() -> Tensor:
        return torch.randn((batch, *latent), generator=source).to(dtype)

    def kept() -> Tensor:
        return (torch.rand(batch, generator=source) >= settings.residual_dropout).to(dtype)

    # The order is part of what a seed means: changing it changes every persona.
    sample = StepSample(
        photo=choice(0, photos),
        t=choice(low, high),
        posterior=normal(),
        noise=normal(),
        template=choice(0, len(settings.templates)),
        open_prompt=choice(0, len(settings.open_prompts)),
        keep=kept(),
        keep_open=kept(),
    )
    return _with_class_pictures(sample, settings, step, latent) if settings.prior else sample


def _with_class_pictures(sample: StepSample, settings: LearnSettings, step: int, latent: tuple[int, ...]) -> StepSample:
    """The sample with as many class pictures as photos, from a generator of their own: the rest stays as it is.

    Their t is of the whole schedule, because the trained weights are in place at every t.
    """
    source = generator(settings.seed, "prior", step)
    return replace(
        sample,
        class_picture=torch.randint(0, settings.prior, (settings.batch,), generator=source),
        class_t=torch.randint(0, 1000, (settings.batch,), generator=source),
        class_noise=torch.randn((settings.batch, *latent), generator=source).to(sample.noise.dtype),
    )


def generator(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(_number(seed, purpose, step))


@contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """While inside, new modules are initialized from `seed`; the global generator's state is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_number(seed, "weights", 0))
        yield


def _number(seed: int, purpose: str, step: int) -> int:
    # torch's CPU generator uses the lower 32 bits of a seed, so they must differ between neighbouring steps.
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose} {step}".encode()).digest()[:8])
