"""Stable Diffusion 1.4, the base of the paper's experiments."""

from pmagic.bases.model_spec import CLIP_REPO, ModelSpec

SPEC = ModelSpec(
    name="sd14",
    folder=None,
    repo="CompVis/stable-diffusion-v1-4",
    clip=CLIP_REPO,
    size_gb=4.3,
    licence="CreativeML OpenRAIL-M",
)
