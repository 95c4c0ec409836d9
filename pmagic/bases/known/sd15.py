"""Stable Diffusion 1.5; its first repository has vanished, this is the community's copy."""

from pmagic.bases.model_spec import CLIP_REPO, ModelSpec

SPEC = ModelSpec(
    name="sd15",
    folder=None,
    repo="stable-diffusion-v1-5/stable-diffusion-v1-5",
    clip=CLIP_REPO,
    size_gb=4.3,
    licence="CreativeML OpenRAIL-M",
)
