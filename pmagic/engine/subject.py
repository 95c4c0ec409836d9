"""The subject: everything that learning needs to know of the photos, computed once."""

# P photos . C latent channels . h, w latent height and width . e image embedding width

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pmagic.bases.loading import Base
from pmagic.engine import prompts
from pmagic.errors import PhotoRefused, UsageProblem, WeightsMissing
from pmagic.vision import clip


@dataclass(frozen=True)
class Subject:
    """Photos as the base and its observer see them; the photos themselves are not in it."""

    word: str  # super-category, one token of the base's tokenizer
    mean: Tensor  # (P, C, h, w), of the autoencoder's posterior, unscaled
    std: Tensor  # (P, C, h, w)
    mask: Tensor  # (P, 1, h, w), range [0, 1], where the subject is
    image_embedding: Tensor  # (P, e), CLIP's projection of each whole photo
    hashes: tuple[str, ...]  # SHA-256 of each photo's file


def observe(
    base: Base, photos: Sequence[Image.Image], hashes: Sequence[str], *, word: str, mask: Image.Image | None = None
) -> Subject:
    """Encode the photos once: autoencoder moments, mask on the latent grid, image embedding.

    Photos are cut to their central square and brought to the base's own size for the autoencoder; the observer sees
    them whole. Without a mask the whole photo counts. Raises UsageProblem for a word of several tokens or a mask
    with several photos, PhotoRefused for an empty mask.
    """
    if not photos:
        raise UsageProblem("there is no photo to learn from", "give at least one")
    if mask is not None and len(photos) > 1:
        raise UsageProblem("one mask cannot serve several photos", "learn from one photo, or leave the mask out")
    prompts.check_word(base.pipeline.tokenizer, word)
    vae = base.pipeline.vae
    pixels = torch.cat([photo_pixels(photo, base.size) for photo in photos])
    with torch.no_grad():
        posterior = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
    size = posterior.mean.shape[-2:]
    masks = torch.ones(len(photos), 1, *size) if mask is None else latent_mask(mask, size)
    return Subject(
        word=word,
        mean=posterior.mean.to(base.precision),
        std=posterior.std.to(base.precision),
        mask=masks.to(vae.device, base.precision),
        image_embedding=observer(base).image_embedding(photos).to(base.precision),
        hashes=tuple(hashes),
    )


def observer(base: Base) -> clip.Clip:
    """The base's CLIP, opened once per process. Raises WeightsMissing where it is not on this machine."""
    if not isinstance(base.card.clip, Path):
        raise WeightsMissing(
            f"the observer {base.card.clip} is not on this machine", f"fetch it with `pmagic models pull {base.name}`"
        )
    return _opened(base.card.clip, str(base.device))


@lru_cache(maxsize=2)
def _opened(folder: Path, device: str) -> clip.Clip:
    return clip.load(folder, device=device)


def photo_pixels(photo: Image.Image, size: int) -> Tensor:
    """The central square of a photo at `size` x `size`: (1, 3, size, size), range [-1, 1]."""
    square = _central_square(photo.convert("RGB"))
    if square.size != (size, size):
        square = square.resize((size, size), Image.Resampling.BICUBIC)
    pixels = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8).view(1, size, size, 3)
    return pixels.permute(0, 3, 1, 2).to(torch.float64) / 127.5 - 1


def roundtrip_psnr(base: Base, photo: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB between a photo's square and what the base's autoencoder makes of it.

    Low where the base was never shown such pictures: it cannot draw what it cannot even copy.
    """
    vae = base.pipeline.vae
    pixels = photo_pixels(photo, base.size)  # (1, 3, size, size), range [-1, 1]
    with torch.no_grad():
        copy = vae.decode(vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mean).sample
    error = F.mse_loss(copy.to("cpu", torch.float64).clamp(-1, 1), pixels)
    return float(10 * torch.log10(4 / error))


def latent_mask(mask: Image.Image, size: tuple[int, int]) -> Tensor:
    """The mask's central square on the latent grid, nearest neighbour: (1, 1, h, w), range [0, 1], white is subject."""
    square = _central_square(mask.convert("L"))
    levels = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8).view(1, 1, *reversed(square.size))
    found = F.interpolate(levels.to(torch.float64) / 255, size=size, mode="nearest-exact")
    if not found.any():
        raise PhotoRefused(
            "the mask is empty: no part of the photo is marked", "paint the subject white, or leave the mask out"
        )
    return found


def _central_square(image: Image.Image) -> Image.Image:
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image if width == height else image.crop((left, top, left + side, top + side))
