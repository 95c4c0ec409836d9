"""Stable Diffusion XL 1.0: 1024 x 1024 pixels, two text encoders. Its files in half precision are fetched."""

from pmagic.bases.model_spec import CLIP_REPO, ModelSpec

SPEC = ModelSpec(
    name="sdxl",
    folder=None,
    repo="stabilityai/stable-diffusion-xl-base-1.0",
    clip=CLIP_REPO,
    size_gb=6.9,
    licence="CreativeML OpenRAIL++-M",
)
