"""Where `pmagic render` draws: in the server of this library if one runs and draws the same bytes, else here."""

from collections.abc import Callable, Mapping, Sequence
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
    from pmagic.tasks.adapter_input import AdapterInput


def prepare(
    console: Console,
    personas: "Mapping[str, tuple[Address, Persona]]",
    scenes: Sequence[Scene],
    options: RenderOptions,
    *,
    spec: "ModelSpec",
    before_opening: Callable[[], None],
    adapter: "AdapterInput | None" = None,
) -> "Drawing | RemoteDrawing":
    """As `tasks.drawing.prepare`, for one persona, or for none with an adapter, which a server does not have.

    A shell has a base open itself and asks no server.
    """
    if not opened_bases.are_kept():
        try:
            remote = _ask_server(console, personas, scenes, options, spec, before_opening, adapter)
        except Unlike as reason:
            console.say_always(f"drawing here and not in the server that is running: {reason}")
        else:
            if remote is not None:
                return remote
    return drawing.prepare(
        console,
        personas,
        scenes,
        options,
        base=spec,
        settings=options.settings([persona for _, persona in personas.values()], spec),
        before_opening=before_opening,
        adapter=adapter,
    )


def _ask_server(
    console: Console,
    personas: "Mapping[str, tuple[Address, Persona]]",
    scenes: Sequence[Scene],
    options: RenderOptions,
    spec: "ModelSpec",
    before_opening: Callable[[], None],
    adapter: "AdapterInput | None",
) -> "RemoteDrawing | None":
    """The drawing, prepared by the server; None where no server runs. Raises Unlike where it would draw otherwise."""
    from pmagic.serving import client

    if adapter is None:
        ((address, persona),) = personas.values()
        return client.prepare(console, address, persona, scenes, options, spec, before_opening)
    if client.is_running():
        raise Unlike("a server draws without adapters")
    return None
