"""The metadata of every picture: everything that decides its bits."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pmagic.bases.loading import Base
    from pmagic.engine.recipes import RenderSettings
    from pmagic.persona import Persona


def shared_metadata(
    base: "Base", personas: "Sequence[Persona]", settings: "RenderSettings", dtype: str = "auto"
) -> dict[str, object]:
    """The metadata that all pictures of a task share. Each picture adds persona, prompt, seed and size."""
    return {
        "word": ", ".join(each.word for each in personas),
        "base": base.name,
        "fingerprint": base.fingerprint,
        "negative": settings.negative,
        "steps": settings.steps,
        "guidance": settings.guidance,
        "scheduler": settings.scheduler,
        "device": base.device.type,
        "dtype": dtype,
    }
