"""Domain check: whether a photo is of the kind that a base was trained on, by its UNet's error on a little noise.

The autoencoder is no measure, as it reproduces unfamiliar pictures nearly as well as familiar ones. The UNet takes
unfamiliar content for noise.
"""

import torch
from PIL import Image
from torch.nn import functional as F

from pmagic.bases.loading import Base
from pmagic.engine import added_conditions, randomness, schedulers, token_batch
from pmagic.engine.conditioning import packed_kv, unet_in_compute_dtype
from pmagic.engine.subject import photo_pixels

T = 200  # a timestep with little noise, at which the content of the picture is still visible
NOISES = 8


@torch.no_grad()
def denoising_error(base: Base, photo: Image.Image, word: str) -> float:
    """Mean squared error of the UNet's prediction for a photo's central square at t = 200, over 8 fixed noises.

    0 is perfect; a prediction of zero gives 1. word: what the photo shows, for the prompt.
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
    text = f"a photo of a {word}"
    said = token_batch.encode_plain(base, text).keys.expand(NOISES, -1, -1).to(base.weights_dtype)
    noisy = schedule.add_noise(latents, noise, t)
    with packed_kv(pipeline.unet), unet_in_compute_dtype(base):
        (found,) = pipeline.unet(
            noisy.to(base.weights_dtype),
            t,
            encoder_hidden_states=said,
            added_cond_kwargs=added_conditions.of_picture(base, text, NOISES),
            return_dict=False,
        )
    return float(F.mse_loss(found.double(), target.double()))
