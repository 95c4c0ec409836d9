"""Randomness: all random values of training, sampled on the CPU from (seed, purpose, step) and nothing else.

No generator is kept from one step to the next, so an interrupted run resumes exactly, on any device, and a run with
fewer losses sees the same photos, timesteps and noise.
"""

# B batch . P photos . C latent channels . h, w latent height and width

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

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

    def to(self, device: torch.device) -> "StepSample":
        return StepSample(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


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
    return StepSample(
        photo=choice(0, photos),
        t=choice(low, high),
        posterior=normal(),
        noise=normal(),
        template=choice(0, len(settings.templates)),
        open_prompt=choice(0, len(settings.open_prompts)),
        keep=kept(),
        keep_open=kept(),
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
