"""pmagic learns a person, pet, object or style from one photo and draws them in any scene.

    import pmagic

    alice = pmagic.learn("alice.jpg", base="mini")
    pictures = pmagic.render(alice, "as a cowboy", n=4)

To read the source, begin with `persona` (the value that all parts exchange), then `engine` (the paper, one idea per
file), `methods` (how a persona is learned and applied), `losses` (one equation per file), `bases` (how a diffusion
model is found and loaded), `vision` (frozen observers), `library` (what is kept on disk), `tasks` (what each verb
does), `api` (the functions above), `serving` (a server that keeps a base open), `cli` (the commands), `world` (drawn
people), `mini` (the miniature: a complete small model trained on them), `experiments` (what measures it).
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pmagic.api import (
        Persona,
        PmagicError,
        StageBounds,
        compose,
        learn,
        load,
        open_base,
        probe,
        render,
        save,
    )

# onnxruntime, which insightface brings, looks up a telemetry host from native code once a model is opened; no audit
# hook of Python's sees it. It reads this variable when it is imported, so this stands before every import of it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"
__all__ = [
    "Persona", "PmagicError", "StageBounds", "compose", "learn", "load", "open_base", "probe", "render", "save",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """The functions of `pmagic.api`, imported at the first use of one, so that `import pmagic` stays fast."""
    if name not in __all__:
        raise AttributeError(f"module 'pmagic' has no attribute {name!r}")
    from pmagic import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
