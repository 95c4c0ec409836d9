"""Inpainting: a persona in one place of an existing picture, by blended latent diffusion (Avrahami et al. 2023).

The blending is done by diffusers' own inpainting pipeline, which supports any UNet with four channels. This module
prepares the part of the background that is redrawn at the base's size and composites it afterwards, so that every
pixel outside the mask remains the background's own.
"""

# C latent channels . h, w latent height and width

from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from pmagic.bases.loading import Base
from pmagic.bases.model_spec import ModelSpec
from pmagic.engine import subject
from pmagic.engine.subject import Frame
from pmagic.errors import PhotoRefused, UsageError

MARGIN = 0.25  # of the masked area's longer side, kept around it as context for the UNet
ARTICLES = ("a", "an", "the")  # removed from a text, because CLIPSeg's own templates have them
MARKED = 128  # the least grey level of a mask's pixel that counts as marked


@dataclass(frozen=True)
class InpaintRegion:
    """A place in a background. All lengths are pixels of the background."""

    background: Image.Image  # RGB
    mask: Image.Image  # L, 255 where the background is redrawn and 0 elsewhere
    opacity: Image.Image  # L, of the drawn picture over the background; 0 outside the mask
    frame: Frame  # the part that is drawn at the base's size: it contains the mask, and may extend beyond the picture

    def inputs(self, base: Base, width: int, height: int) -> dict[str, Any]:
        """The arguments of diffusers' inpainting pipeline, besides the prompt, to draw the frame in `width` x `height`.

        The background's latents are the mean of its posterior, so that a picture depends on its own seed alone.
        """
        vae, scale = base.pipeline.vae, base.pipeline.vae_scale_factor
        scene = self._crop_to_frame(self.background, "symmetric").resize((width, height), Image.Resampling.LANCZOS)
        pixels = base.pipeline.image_processor.preprocess(scene).to(vae.device, vae.dtype)
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor  # (1, C, h, w)
        marked = torch.from_numpy(np.array(self._crop_to_frame(self.mask, "constant"))).float()[None, None]
        cells = F.adaptive_max_pool2d(marked / 255, latents.shape[-2:])  # every cell that the mask touches
        return {
            # The pipeline uses it unchanged, because it has the number of channels of latents.
            "image": latents.to(base.weights_dtype),
            "mask_image": cells.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3),
            # For UNets with more channels; unused here.
            "masked_image_latents": torch.zeros_like(latents, dtype=base.weights_dtype),
            "strength": 1.0,
        }

    def composite(self, drawn: Image.Image) -> Image.Image:
        """The background with the drawn frame pasted in where the mask is."""
        left, top, right, bottom = self.frame
        size = (right - left, bottom - top)
        drawn = drawn if drawn.size == size else drawn.resize(size, Image.Resampling.LANCZOS)
        whole = Image.new("RGB", self.background.size)
        whole.paste(drawn, (left, top))
        return Image.composite(whole, self.background, self.opacity)

    def preview(self) -> Image.Image:
        """The background, unchanged under the mask and pale everywhere else, with the frame in red."""
        pale = Image.blend(self.background, Image.new("RGB", self.background.size, "white"), 0.7)
        shown = Image.composite(self.background, pale, self.opacity)
        left, top, right, bottom = self.frame
        thick = max(1, min(shown.size) // 200)
        red = Image.new("RGB", shown.size, "red")
        line = Image.new("L", shown.size, 0)
        line.paste(255, (left, top, right, bottom))
        line.paste(0, (left + thick, top + thick, right - thick, bottom - thick))
        return Image.composite(red, shown, line)

    def _crop_to_frame(self, image: Image.Image, beyond: Literal["symmetric", "constant"]) -> Image.Image:
        """Crop an image of the background's size to the frame. beyond: numpy.pad's mode outside the picture."""
        left, top, right, bottom = self.frame
        width, height = image.size
        across, down = (max(0, -left), max(0, right - width)), (max(0, -top), max(0, bottom - height))
        inside = image.crop((max(0, left), max(0, top), min(width, right), min(height, bottom)))
        pixels = np.asarray(inside)
        return Image.fromarray(np.pad(pixels, (down, across, (0, 0))[: pixels.ndim], mode=beyond))


def inpaint_region(
    background: Image.Image, mask: Image.Image, size: tuple[int, int], soft_edge: int = 0
) -> InpaintRegion:
    """The place that `mask` marks in `background`, to be drawn in `size` (width, height).

    mask: of the background's size, light where the picture is redrawn. soft_edge: the width in pixels, from the mask's
    border inwards, over which the drawn picture fades into the background.
    Raises UsageError for a mask of another size and for a soft edge that leaves no pixel fully opaque, PhotoRefused
    for a mask that marks nothing.
    """
    from scipy.ndimage import distance_transform_edt  # most pictures need no mask

    if mask.size != background.size:
        raise UsageError(
            f"the mask is {mask.width} x {mask.height}, the background is {background.width} x {background.height}",
            "give a mask of the background's size",
        )
    if soft_edge < 0:
        raise UsageError(f"a soft edge must be 0 pixels or more, not {soft_edge}", "leave it out for a sharp one")
    marked = np.asarray(mask.convert("L")) >= MARKED
    if not marked.any():
        raise PhotoRefused("the mask is empty: nothing of the background is marked", "paint white where to draw")
    # A pixel next to an unmarked one has distance 1. The picture's own border does not count as an edge of the mask.
    padded = np.pad(marked, 1, mode="edge")
    depth = np.inf if marked.all() else cast(np.ndarray, distance_transform_edt(padded))[1:-1, 1:-1]
    if np.max(depth) < soft_edge + 1:
        raise UsageError(
            f"a soft edge of {soft_edge} pixels is wider than the mask: nothing in it would be drawn in full",
            f"give at most {int(np.max(depth)) - 1}",
        )
    box = Image.fromarray(marked).getbbox()
    assert box is not None  # something is marked
    opacity = np.where(marked, np.clip(depth / (soft_edge + 1), 0, 1), 0)
    return InpaintRegion(
        background=background.convert("RGB"),
        mask=Image.fromarray(marked.astype(np.uint8) * 255),
        opacity=Image.fromarray(np.rint(opacity * 255).astype(np.uint8)),
        frame=frame(box, background.size, size),
    )


def frame(marked: Frame, whole: tuple[int, int], size: tuple[int, int]) -> Frame:
    """The frame that is drawn for a marked box: the box with a margin around it, in the proportions of `size`.

    It stays inside the picture of size `whole` if that is large enough; otherwise it extends beyond both sides equally.
    """
    margin = round(MARGIN * max(marked[2] - marked[0], marked[3] - marked[1]))
    low = [max(0, marked[axis] - margin) for axis in (0, 1)]
    high = [min(whole[axis], marked[axis + 2] + margin) for axis in (0, 1)]
    scale = max((high[axis] - low[axis]) / size[axis] for axis in (0, 1))
    for axis in (0, 1):
        length = max(high[axis] - low[axis], round(size[axis] * scale))
        start = low[axis] - (length - (high[axis] - low[axis])) // 2
        room = whole[axis] - length
        start = min(max(start, 0), room) if room >= 0 else room // 2
        low[axis], high[axis] = start, start + length
    return low[0], low[1], high[0], high[1]


def text_mask(spec: ModelSpec, background: Image.Image, text: str) -> Image.Image:
    """A mask of `text` in the background by CLIPSeg: every pixel at least half as probable as the most probable one.

    Raises UsageError for a text without a word, PhotoRefused if it is not found, WeightsMissing without CLIPSeg.
    """
    words = text.split()
    phrase = " ".join(words[1:] if words and words[0].lower() in ARTICLES else words)
    if phrase.lower() in ARTICLES or not any(letter.isalnum() for letter in phrase):
        raise UsageError(
            f"the text {text!r} does not say what to find in the background", 'say it as in "the empty chair"'
        )
    found = subject.segmenter(spec).mask(background, phrase)
    if found.max() < subject.MIN_MASK_PROBABILITY:
        raise PhotoRefused(
            f"{text!r} is not found in the background: nowhere is it more than {found.max():.0%} probable",
            "say it in other words, or mark the place with --mask or --box",
        )
    return Image.fromarray(((found >= found.max() / 2).numpy() * 255).astype(np.uint8))
