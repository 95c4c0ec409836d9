"""`pmagic serve`: keeps a base open and draws for HTTP clients and for this user's own `pmagic render`."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pmagic import settings
from pmagic.cli import defects, drawing
from pmagic.cli.console import Console
from pmagic.cli.options import AsJson, Quiet
from pmagic.errors import NotFound, UsageError
from pmagic.library.store import Library
from pmagic.tasks.drawing import RenderOptions

if TYPE_CHECKING:
    from pmagic.bases.model_spec import ModelSpec

PORT = 8423
WAITING = 32


def serve(
    port: Annotated[int, typer.Option("--port", help="On 127.0.0.1; 0 for any that is free.")] = PORT,
    queue: Annotated[int, typer.Option("--queue", help="How many drawings may wait.")] = WAITING,
    base: drawing.BaseMoved = None,
    device: Annotated[
        str | None, typer.Option("--device", help="auto, cpu, cuda or mps; cuda:0,cuda:1 for a worker on each.")
    ] = None,
    dtype: drawing.Dtype = "auto",
    memory: drawing.Memory = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Keep a base open and draw personas for other programs, by the OpenAI images API.

    It listens on this machine only and asks for a token. `pmagic render` uses it by itself while it runs.
    Ctrl-C stops it.

    \b
    pmagic serve
    pmagic serve --base mini --port 9000
    """
    console = Console(quiet=quiet, as_json=as_json)
    try:
        from pmagic.serving import access, server, socket_file
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise UsageError(
            f"`pmagic serve` needs {error.name}, which is not installed",
            "install it with `pip install starlette uvicorn`, after pipx with `pipx inject pmagic starlette uvicorn`",
        ) from error

    devices = (device or settings.config().device).split(",")
    for each in devices:
        settings.check_device(each)
    if len(set(devices)) < len(devices):
        raise UsageError(f"--device {device} names a device twice", "name each once")
    config = server.ServeSettings(
        port=port,
        queue=queue,
        base=base,
        spec=_base_to_open(base),
        devices=devices,
        options=RenderOptions(dtype=dtype, memory=memory),
    )
    place = access.token_file()
    token, is_new = access.load_token(place)

    def on_listening(url: str) -> None:
        if is_new and sys.stderr.isatty():
            console.say_always(f"the token, which is shown only now: {token}")
        document = {"url": url, "socket": socket_file.path(), "token_file": place, "pid": os.getpid()}
        console.result([url], {**document, "base": config.spec and config.spec.name})
        console.say(f"the token is in {place}; Ctrl-C stops the server")

    voice = server.Voice(on_listening=on_listening, log=console.say_always, on_defect=defects.describe)
    server.serve(config, token, voice)


def _base_to_open(name: str | None) -> "ModelSpec | None":
    """The base of --base, or the one that all personas were learned on; None for no personas, or of several bases."""
    from pmagic.bases import local_bases, model_spec

    if name is not None:
        return model_spec.require_weights(model_spec.resolve(name))
    manifests = [each.manifest for each in Library(settings.library_dir()).entries() if each.manifest is not None]
    bases = {(each.base, each.fingerprint) for each in manifests}
    if len(bases) != 1:
        return None
    try:
        return model_spec.require_weights(local_bases.base_of(*bases.pop()))
    except NotFound as problem:
        raise NotFound(problem.what, "say where the base of your personas is with --base") from problem
