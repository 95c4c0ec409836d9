"""Dreamlike Photoreal 2.0, an SD 1.x fine-tune for photographs."""

from pmagic.bases.model_spec import CLIP_REPO, ModelSpec

SPEC = ModelSpec(
    name="dreamlike",
    folder=None,
    repo="dreamlike-art/dreamlike-photoreal-2.0",
    clip=CLIP_REPO,
    size_gb=4.3,
    licence="modified CreativeML OpenRAIL-M (commercial use is restricted)",
)
