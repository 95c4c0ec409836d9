"""Where `pmagic render` draws: in the server of this library if one runs and draws the same bytes, else here."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pmagic.cli.console import Console
from pmagic.serving.outcomes import Unlike
from pmagic.tasks import drawing, opened_bases
from pmagic.tasks.drawing import Drawing, RenderOptions, Scene

if TYPE_CHECKING:
    from pmagic.bases.model_spec import ModelSpec
    from pmagic.library.naming import Address
    from pmagic.persona import Persona
    from pmagic.serving.client import RemoteDrawing


def prepare(
    console: Console,
    address: "Address",
    persona: "Persona",
    scenes: Sequence[Scene],
    options: RenderOptions,
    *,
    spec: "ModelSpec",
    before_opening: Callable[[], None],
) -> "Drawing | RemoteDrawing":
    """As `tasks.drawing.prepare`, for one persona. A shell has a base open itself and asks no server."""
    if not opened_bases.are_kept():
        from pmagic.serving import client

        try:
            remote = client.prepare(console, address, persona, scenes, options, spec, before_opening)
        except Unlike as reason:
            console.say_always(f"drawing here and not in the server that is running: {reason}")
        else:
            if remote is not None:
                return remote
    return drawing.prepare(
        console,
        {"": (address, persona)},
        scenes,
        options,
        base=spec,
        settings=options.settings([persona], spec),
        before_opening=before_opening,
    )
