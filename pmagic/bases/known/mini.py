"""The miniature: a complete small Stable Diffusion that knows drawn people, shipped inside this package."""

from importlib.resources import files
from pathlib import Path

from pmagic.bases.model_spec import ModelSpec

_WEIGHTS = Path(str(files("pmagic"))) / "mini" / "weights"

SPEC = ModelSpec(
    name="mini",
    folder=_WEIGHTS / "base",
    repo=None,
    clip=_WEIGHTS / "clip",
    size_gb=0.04,
    licence="Apache-2.0",
    clipseg=_WEIGHTS / "clipseg",
    faces=_WEIGHTS / "faces_a",
    eval_recognizer=_WEIGHTS / "faces_b",
)
