"""Familiarity: whether a base was ever shown such pictures, told by how much of a little noise it finds in one.

An autoencoder copies strange pictures nearly as well as those it knows; only the UNet takes what it does not know for
noise.
"""

import torch
from PIL import Image
from torch.nn import functional as F

from pmagic.bases.loading import Base
from pmagic.engine import randomness, schedulers, token_batch
from pmagic.engine.conditioning import packed_kv, unet_in_compute_dtype
from pmagic.engine.subject import photo_pixels

T = 200  # little noise: what the picture shows is still plain to see
NOISES = 8


@torch.no_grad()
def denoising_error(base: Base, photo: Image.Image, word: str) -> float:
    """Mean squared error of the noise found in a photo's central square at t = 200, over 8 fixed noises.

    0 is perfect; finding nothing at all gives 1. word: what the photo is said to show.
    """
    pipeline = base.pipeline
    schedule = schedulers.noise_schedule(pipeline.scheduler.config)
    pixels = photo_pixels(photo, base.size).to(base.device, pipeline.vae.dtype)
    latents = pipeline.vae.config.scaling_factor * pipeline.vae.encode(pixels).latent_dist.mean
    latents = latents.expand(NOISES, -1, -1, -1)
    noise = torch.randn(latents.shape, generator=randomness.generator(0, "familiarity")).to(latents)
    t = torch.full((NOISES,), T, device=base.device)
    velocity = schedule.config.prediction_type == "v_prediction"
    target = schedule.get_velocity(latents, noise, t) if velocity else noise
    said = token_batch.encode_plain(base, f"a photo of a {word}").keys.expand(NOISES, -1, -1)
    noisy = schedule.add_noise(latents, noise, t)
    with packed_kv(pipeline.unet), unet_in_compute_dtype(base):
        (found,) = pipeline.unet(noisy, t, encoder_hidden_states=said.to(latents.dtype), return_dict=False)
    return float(F.mse_loss(found.double(), target.double()))
