"""Stock pipelines: diffusers' own pipeline that draws with the parts of an opened base."""

from typing import Any

from pmagic.bases.loading import Base


def make(base: Base, scheduler: Any, *, inpaints: bool) -> Any:
    """The pipeline of the base's architecture with another scheduler. inpaints: the one that redraws a marked part."""
    import diffusers

    stock: Any = base.pipeline
    if base.reads_pooled:
        kind: Any = diffusers.StableDiffusionXLInpaintPipeline if inpaints else diffusers.StableDiffusionXLPipeline
        own = {"force_zeros_for_empty_prompt": stock.config.force_zeros_for_empty_prompt, "add_watermarker": False}
    else:
        kind = diffusers.StableDiffusionInpaintPipeline if inpaints else diffusers.StableDiffusionPipeline
        own = {"requires_safety_checker": False}
    pipeline = kind(**{**stock.components, "scheduler": scheduler}, **own)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
