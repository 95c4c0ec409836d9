"""Rendering: the stock Stable Diffusion pipeline, wearing a persona. No sampling loop of our own.

Every seed gives a picture noise of its own, so a picture is the same alone or among others; drawn one at a time, which
is the default, it is the same to the last bit.
"""

# S text positions . w text width . C latent channels . h, w of the latents

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pmagic import shelf
from pmagic.bases.loading import Base
from pmagic.engine import memory, prompts, schedulers, sentences
from pmagic.engine.conditioning import Condition, Conditioner, autocast_noise, packed_attention, timestep_switch
from pmagic.engine.recipes import RenderSettings
from pmagic.engine.schedulers import SCHEDULERS
from pmagic.errors import NumericFailure, UsageProblem
from pmagic.persona import Persona

__all__ = ["SCHEDULERS", "Script", "initial_noise", "render", "sample", "script"]

MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Script:
    """What the UNet reads at each of the sampler's timesteps, packed [K|V]."""

    rows: Mapping[float, Tensor]  # (S, 2w)
    negative: Tensor  # (1, S, 2w)


def render(
    base: Base,
    persona: Persona | None,
    prompt: str,
    seeds: Sequence[int],
    settings: RenderSettings,
    *,
    word: str | None = None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> list[Image.Image]:
    """One picture per seed of `prompt`, in which the persona stands at `{}`, or the plain `word` without a persona.

    on_step is told the UNet calls done and to do, over all pictures; what it raises goes through.
    Raises UsageProblem (prompt, seeds), Incompatible (a persona of another base), OutOfMemory, NumericFailure.
    """
    if not seeds:
        raise UsageProblem("there is no picture to draw", "ask for at least one")
    for seed in seeds:
        if not 0 <= seed <= MAX_SEED:
            raise UsageProblem(f"a seed must be from 0 to {MAX_SEED}, not {seed}", "give another seed")
    width, height = settings.size or (base.size, base.size)
    with _worn(base, persona, word) as conditioner:
        read = script(base, conditioner, prompt, settings)
        total = len(timesteps(base, settings)) * -(-len(seeds) // settings.batch)
        pictures: list[Image.Image] = []
        calls = 0

        def told() -> None:
            nonlocal calls
            calls += 1
            on_step(calls, total)

        for first in range(0, len(seeds), settings.batch):
            noise = initial_noise(base, seeds[first : first + settings.batch], width, height)
            with memory.enough_for(f"draw {width} x {height} pixels", "draw smaller pictures, or fewer at once"):
                pictures += _decoded(base, sample(base, read, noise, settings, told))
    return pictures


def script(base: Base, conditioner: Conditioner, prompt: str, settings: RenderSettings) -> Script:
    """Prompt and negative prompt, encoded for every timestep of the settings' scheduler."""
    steps = timesteps(base, settings)
    with torch.no_grad():
        conditions = conditioner(prompt, steps)
        negative = sentences.plain(base, settings.negative)
    return Script({t: conditions[t].packed()[0] for t in steps}, negative.packed())


def timesteps(base: Base, settings: RenderSettings) -> list[float]:
    """The t of each UNet call, falling; pndm repeats one."""
    scheduler = schedulers.make(settings.scheduler, base.pipeline.scheduler.config)
    scheduler.set_timesteps(settings.steps, device=base.device)
    return [float(t) for t in scheduler.timesteps]


def initial_noise(base: Base, seeds: Sequence[int], width: int, height: int) -> Tensor:
    """Unit normal latents (N, C, h, w), one row per seed, drawn on the CPU in float32 whatever the base's type."""
    scale = base.pipeline.vae_scale_factor
    shape = (1, base.pipeline.unet.config.in_channels, height // scale, width // scale)
    rows = [torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
    return torch.cat(rows).to(base.device, base.pipeline.unet.dtype)


def sample(
    base: Base, script: Script, noise: Tensor, settings: RenderSettings, on_call: Callable[[], None] = lambda: None
) -> Tensor:
    """The stock pipeline's loop from `noise` (N, C, h, w) to clean latents of the same shape."""
    from diffusers import StableDiffusionPipeline

    stock = base.pipeline
    scheduler = schedulers.make(settings.scheduler, stock.scheduler.config)
    pipeline = StableDiffusionPipeline(**{**stock.components, "scheduler": scheduler}, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)

    def after_step(pipeline: StableDiffusionPipeline, index: int, t: Tensor, values: dict[str, Any]) -> dict[str, Any]:
        on_call()
        return {}

    pictures = len(noise)
    first = next(iter(script.rows.values()))
    with (
        packed_attention(stock.unet),
        timestep_switch(stock.unet, script.rows, pictures),
        autocast_noise(stock.unet, base.fast),
    ):
        return pipeline(
            prompt_embeds=first.expand(pictures, -1, -1),
            negative_prompt_embeds=script.negative.expand(pictures, -1, -1),
            latents=noise,
            width=noise.shape[-1] * pipeline.vae_scale_factor,
            height=noise.shape[-2] * pipeline.vae_scale_factor,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            callback_on_step_end=after_step,
            output_type="latent",
        ).images


def _decoded(base: Base, latents: Tensor) -> list[Image.Image]:
    """Latents (N, C, h, w) as pictures, decoded one by one. A number that is not finite would be drawn as black."""
    vae, processor = base.pipeline.vae, base.pipeline.image_processor
    pictures: list[Image.Image] = []
    for row in latents.split(1):
        with torch.no_grad():
            pixels = vae.decode(row / vae.config.scaling_factor, return_dict=False)[0]
        if not (row.isfinite().all() and pixels.isfinite().all()):
            raise NumericFailure(
                f"the picture holds NaN or infinity (drawn in {vae.dtype})",
                "draw in float32 (--dtype float32), with less guidance, or with another scheduler",
            )
        pictures += processor.postprocess(pixels, output_type="pil", do_denormalize=[True])
    return pictures


@contextmanager
def _worn(base: Base, persona: Persona | None, word: str | None) -> Iterator[Conditioner]:
    if persona is not None:
        with shelf.take("methods", persona.method).wear(base, persona) as conditioner:
            yield conditioner
        return
    if word is None:
        raise UsageProblem("without a persona a word must stand for the name", "give the super-category, such as face")

    def same_for_all(prompt: str, steps: Sequence[float]) -> Mapping[float, Condition]:
        condition = sentences.plain(base, prompts.spoken(prompt, word))
        return dict.fromkeys(steps, condition)

    yield same_for_all
