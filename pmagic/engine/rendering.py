"""Rendering: pictures of personas by the stock Stable Diffusion pipelines, without a sampling loop of our own.

Every picture has its own noise from its seed, so it is the same alone or among others: bit for bit with a batch of 1,
and up to the rounding of some pixels with larger batches.
"""

# K texts, one without regions . S text positions . w text width . C latent channels . h, w of the latents

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from pmagic.bases.loading import Base
from pmagic.engine import composing, memory, prompts, schedulers, token_batch
from pmagic.engine.composing import EmbeddingSchedule
from pmagic.engine.conditioning import packed_kv, timestep_switch, unet_in_compute_dtype
from pmagic.engine.inpainting import InpaintRegion
from pmagic.engine.recipes import RenderSettings
from pmagic.engine.regions import Box, region_weights, regional_attention
from pmagic.engine.schedulers import SCHEDULERS
from pmagic.errors import NumericFailure, UsageError
from pmagic.persona import Persona

__all__ = ["SCHEDULERS", "PromptSchedule", "compose", "encode_prompt", "initial_noise", "render", "sample"]

MAX_SEED = 2**32 - 1  # torch's CPU generator, which makes the noise, uses only 32 bits of a seed


@dataclass(frozen=True)
class PromptSchedule:
    """The packed [K|V] condition of the UNet at each of the sampler's timesteps."""

    rows: Mapping[float, Tensor]  # (K * S, 2w)
    negative: Tensor  # (1, K * S, 2w)
    boxes: tuple[Box, ...] = ()  # regions of all texts but the last, which is for the rest; empty for K = 1


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
    """One picture per seed of `prompt`, in which `{}` stands for the persona, or for the plain `word` if it is None.

    This is the simple form of `compose`; everything else is described there.
    """
    who = persona if persona is not None else word
    if who is None:
        raise UsageError("without a persona a word must stand for the name", "give the super-category, such as face")
    return compose(base, {"": who}, prompt, seeds, settings, on_step=on_step)


def compose(
    base: Base,
    personas: Mapping[str, Persona | str],
    prompt: str,
    seeds: Sequence[int],
    settings: RenderSettings,
    *,
    regions: Mapping[str, Box] = MappingProxyType({}),
    edit: InpaintRegion | None = None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> list[Image.Image]:
    """One picture per seed of `prompt`, in which every `{name}` stands for a persona or plain word of `personas`.

    regions: by name, the part of the picture in which only that persona is read. edit: a background in which one place
    is drawn, at the settings' size or the base's; the rest of the result keeps the background's own pixels.
    on_step gets the UNet calls done and the total, over all pictures; its exceptions are passed on.
    Raises UsageError (prompt, seeds), Incompatible (a persona of another base), OutOfMemory, NumericFailure.
    """
    if not seeds:
        raise UsageError("there is no picture to draw", "ask for at least one")
    for seed in seeds:
        if not 0 <= seed <= MAX_SEED:
            raise UsageError(f"a seed must be from 0 to {MAX_SEED}, not {seed}", "give another seed")
    words = {name: who if isinstance(who, str) else who.word for name, who in personas.items()}
    with composing.apply_personas(base, personas) as wordings:
        read = encode_prompt(base, wordings, prompt, settings, words, regions)
        drawn = _draw(base, read, seeds, settings, edit, on_step)
    return drawn if edit is None else [edit.composite(each) for each in drawn]


def encode_prompt(
    base: Base,
    wordings: Mapping[str, EmbeddingSchedule],
    prompt: str,
    settings: RenderSettings,
    words: Mapping[str, str] = MappingProxyType({}),
    regions: Mapping[str, Box] = MappingProxyType({}),
) -> PromptSchedule:
    """The prompt and the negative prompt, encoded for every timestep of the settings' scheduler.

    words: the super-category of each name that has a region, which stands for the name outside the regions.
    Raises UsageError for a name in the prompt without a schedule.
    """
    for name in prompts.names(prompt):
        if name not in wordings:
            raise UsageError(f"nobody stands for {prompts.in_braces(name)} in the prompt", "name personas in braces")
    steps = timesteps(base, settings)
    texts = composing.regional_prompts(wordings, words, list(regions)) if regions else [wordings]
    with torch.no_grad():
        read = [composing.encode_schedule(base, prompt, each, steps) for each in texts]
        negative = token_batch.encode_plain(base, settings.negative).pack()
    rows = {t: torch.cat([each[t].pack()[0] for each in read]) for t in steps}
    return PromptSchedule(rows, negative.repeat(1, len(texts), 1), tuple(regions.values()))


def timesteps(base: Base, settings: RenderSettings) -> list[float]:
    """The timestep of each UNet call, falling; pndm repeats one."""
    scheduler = schedulers.make(settings.scheduler, base.pipeline.scheduler.config)
    scheduler.set_timesteps(settings.steps, device=base.device)
    return [float(t) for t in scheduler.timesteps]


def initial_noise(base: Base, seeds: Sequence[int], width: int, height: int) -> Tensor:
    """Unit normal latents (N, C, h, w), one row per seed, sampled on the CPU in float32 whatever the base's type."""
    scale = base.pipeline.vae_scale_factor
    shape = (1, base.pipeline.unet.config.in_channels, height // scale, width // scale)
    rows = [torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
    return torch.cat(rows).to(base.device, base.weights_dtype)


def sample(
    base: Base,
    script: PromptSchedule,
    noise: Tensor,
    settings: RenderSettings,
    on_call: Callable[[], None] = lambda: None,
    edit: InpaintRegion | None = None,
) -> Tensor:
    """Run the stock pipeline's sampling loop from `noise` (N, C, h, w) to clean latents of the same shape."""
    from diffusers import StableDiffusionInpaintPipeline, StableDiffusionPipeline

    stock = base.pipeline
    scheduler = schedulers.make(settings.scheduler, stock.scheduler.config)
    kind = StableDiffusionPipeline if edit is None else StableDiffusionInpaintPipeline
    pipeline = kind(**{**stock.components, "scheduler": scheduler}, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    cells = (noise.shape[-2], noise.shape[-1])
    height, width = (side * pipeline.vae_scale_factor for side in cells)
    # The pipeline's annotations allow neither latents as images nor its own callback.
    draw = cast(Callable[..., Any], pipeline)

    def after_step(pipeline: Any, index: int, t: Tensor, values: dict[str, Any]) -> dict[str, Any]:
        on_call()
        return {}

    pictures = len(noise)
    first = next(iter(script.rows.values()))
    with (
        packed_kv(stock.unet),
        timestep_switch(stock.unet, script.rows, pictures),
        regional_attention(stock.unet, region_weights(script.boxes, cells) if script.boxes else None),
        unet_in_compute_dtype(base),
    ):
        return draw(
            prompt_embeds=first.expand(pictures, -1, -1),
            negative_prompt_embeds=script.negative.expand(pictures, -1, -1),
            latents=noise,
            width=width,
            height=height,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            callback_on_step_end=after_step,
            output_type="latent",
            **(edit.inputs(base, width, height) if edit is not None else {}),
        ).images


def _draw(
    base: Base,
    read: PromptSchedule,
    seeds: Sequence[int],
    settings: RenderSettings,
    edit: InpaintRegion | None,
    on_step: Callable[[int, int], None],
) -> list[Image.Image]:
    width, height = settings.size or (base.size, base.size)
    total = len(timesteps(base, settings)) * -(-len(seeds) // settings.batch)
    pictures: list[Image.Image] = []
    calls = 0

    def report_step() -> None:
        nonlocal calls
        calls += 1
        on_step(calls, total)

    for first in range(0, len(seeds), settings.batch):
        with memory.oom_as_problem(f"draw {width} x {height} pixels", "draw smaller pictures (--size)"):
            noise = initial_noise(base, seeds[first : first + settings.batch], width, height)
            pictures += _decode(base, sample(base, read, noise, settings, report_step, edit))
    return pictures


def _decode(base: Base, latents: Tensor) -> list[Image.Image]:
    """Decode latents (N, C, h, w) to pictures, one by one.

    Raises NumericFailure for values that are not finite, which would otherwise become black pixels.
    """
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
        found = processor.postprocess(pixels, output_type="pil", do_denormalize=[True])
        pictures += cast(list[Image.Image], found)
    return pictures
