"""Trains the miniature's autoencoder: latents of four channels and a quarter of the side, 64 x 64 to 16 x 16.

    python -m pmagic.mini.train_vae WORK --minutes 14
    python -m pmagic.mini.train_vae WORK --minutes 14 --decoder     trains only the decoder further

The second command changes no latents, so a base that was trained before remains valid.
"""

import argparse
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor

from pmagic.mini import corpus
from pmagic.mini.training import Run, autocast
from pmagic.world.drawing import draw
from pmagic.world.people import HELD_OUT, person
from pmagic.world.scenes import rng_for
from pmagic.world.versions import WORLDS

BATCH = 16
KL_WEIGHT = 1e-6


def network() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=cast(Any, ["DownEncoderBlock2D"] * 3), up_block_types=cast(Any, ["UpDecoderBlock2D"] * 3),
        block_out_channels=cast(Any, [16, 32, 96]), layers_per_block=1, norm_num_groups=8, latent_channels=4,
        sample_size=64, mid_block_add_attention=False,
    )  # fmt: skip


def encode(vae: AutoencoderKL, x: Tensor) -> DiagonalGaussianDistribution:
    """The posterior of the latents of pictures (B, 3, H, W) in [-1, 1]."""
    return cast(AutoencoderKLOutput, vae.encode(x)).latent_dist


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Decode unscaled latents (B, C, h, w) to pictures (B, 3, H, W)."""
    return cast(DecoderOutput, vae.decode(cast(torch.FloatTensor, latents))).sample


def as_tensor(images: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1


def _edge_loss(decoded: Tensor, x: Tensor) -> Tensor:
    return cast(Tensor, sum(F.l1_loss(a, b) for a, b in zip(_edges(decoded), _edges(x), strict=True)))


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.diff(dim=-1), x.diff(dim=-2)


def held_out_pictures(count: int, version: int = 1) -> np.ndarray:
    """Pictures (count, side, side, 3) uint8 of people outside every training set, in that version of the world."""
    world = WORLDS[version]
    people = [(person(HELD_OUT + k), world.scene(rng_for(7, k))) for k in range(count)]
    return np.stack([draw([each], side=world.side).image for each in people])


@torch.no_grad()
def psnr(vae: AutoencoderKL, images: np.ndarray) -> float:
    """Mean over pictures of the peak signal-to-noise ratio in dB between each picture and its decoded latent mean."""
    x = as_tensor(images)
    error = (decode(vae, encode(vae, x).mode()).clamp(-1, 1) - x).square().flatten(1).mean(1)
    return float((10 * torch.log10(4 / error)).mean())


def train(work: Path, minutes: float) -> AutoencoderKL:
    torch.manual_seed(0)
    data = corpus.load(work / "corpus")
    images = data.images
    vae = network()  # default memory order: channels_last is slower at these widths
    run = Run(work, "vae", vae, minutes, rate=3e-3)
    rng = np.random.default_rng(run.steps)
    test = held_out_pictures(64, data.version)
    while run.going:
        x = as_tensor(images[np.sort(rng.integers(0, len(images), BATCH))])
        with autocast():
            latents = encode(vae, x)
            decoded = decode(vae, latents.sample())
        decoded = decoded.float()
        run.step(
            {
                "mse": F.mse_loss(decoded, x),
                "l1": 0.1 * F.l1_loss(decoded, x),
                "edges": 0.1 * _edge_loss(decoded, x),
                "kl": KL_WEIGHT * latents.kl().float().mean(),
            }
        )
        if run.steps % 1000 == 0:
            print(f"vae  held-out PSNR {psnr(run.average.eval(), test):.2f} dB", flush=True)
    print(f"vae  done: {run.steps} steps, held-out PSNR {psnr(run.average.eval(), test):.2f} dB", flush=True)
    return run.average.eval()


def train_decoder(work: Path, minutes: float) -> None:
    """Train the decoder further after `train`, on the corpus's fixed latents (WORK/latents.npy, see base_material)."""
    torch.manual_seed(0)
    data = corpus.load(work / "corpus")
    images, latents = data.images, np.load(work / "latents.npy", mmap_mode="r")
    vae, average = load_trained(work), load_trained(work)
    run = Run(work, "decoder", vae.decoder, minutes, rate=1e-3)
    average.decoder = run.average
    rng = np.random.default_rng(run.steps)
    test = held_out_pictures(64, data.version)
    while run.going:
        rows = np.sort(rng.integers(0, len(images), BATCH))
        x, z = as_tensor(images[rows]), torch.from_numpy(latents[rows]).float()
        with autocast():
            decoded = decode(vae, z)
        decoded = decoded.float()
        run.step({"mse": F.mse_loss(decoded, x), "edges": 0.1 * _edge_loss(decoded, x)})
        if run.steps % 1000 == 0:
            print(f"decoder  held-out PSNR {psnr(average, test):.2f} dB", flush=True)
    print(f"decoder  done: {run.steps} steps, held-out PSNR {psnr(average, test):.2f} dB", flush=True)


def load_trained(work: Path) -> AutoencoderKL:
    """The averaged network of the last saved state, whether or not the training is finished."""
    vae = Run(work, "vae", network(), 1, 3e-3).average
    if (work / "decoder.safetensors").exists():
        vae.decoder = Run(work, "decoder", vae.decoder, 1, 1e-3).average
    return vae.eval()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=14)
    parser.add_argument("--decoder", action="store_true", help="train the decoder on, and nothing else")
    arguments = parser.parse_args()
    (train_decoder if arguments.decoder else train)(arguments.work, arguments.minutes)
