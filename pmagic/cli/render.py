"""`pmagic render`: draws one persona. The simple form of `compose`."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmagic import settings
from pmagic.cli import drawing, names, prompt_files, via_server
from pmagic.cli.console import Console
from pmagic.cli.options import AsJson, Quiet
from pmagic.engine.prompts import NAME, bare_names
from pmagic.errors import UsageError
from pmagic.library.store import Library
from pmagic.tasks import base_options
from pmagic.tasks.adapter_input import read
from pmagic.tasks.drawing import RenderOptions, Scene, find_base
from pmagic.tasks.prompt_text import plain_prompt, render_prompt, title_of

if TYPE_CHECKING:
    from pmagic.library.naming import Address
    from pmagic.persona import Persona

Scenes = tuple[list[Scene], "Mapping[str, tuple[Address, Persona]]", list[str]]


def render(
    name: Annotated[
        str | None,
        typer.Argument(help="alice, or alice@1; with an adapter it may be left out.", autocompletion=names.personas),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Argument(help='"as a cowboy", or a whole prompt with {} for the name; - reads prompts from stdin.'),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help="File with one prompt a line, instead of PROMPT; # begins a comment."),
    ] = None,
    count: drawing.Count = 1,
    seed: drawing.Seed = 0,
    steps: drawing.Steps = None,
    guidance: drawing.Guidance = None,
    scheduler: drawing.Scheduler = None,
    negative: drawing.Negative = None,
    size: drawing.Size = None,
    strength: drawing.Strength = 1.0,
    adapter: drawing.With = None,
    look: drawing.Look = None,
    scale: drawing.Scale = None,
    out: drawing.Out = Path(),
    kind: drawing.Format = None,
    grid: drawing.Grid = False,
    show: drawing.Show = False,
    enlarge: drawing.Enlarge = 1,
    base: drawing.BaseMoved = None,
    device: drawing.Device = None,
    dtype: drawing.Dtype = "auto",
    memory: drawing.Memory = "auto",
    exact: drawing.Exact = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Draw a persona. Prints the path of each picture; no file is ever overwritten.

    With an adapter the base also reads the picture of --look, and the name may be left out.

    \b
    pmagic render alice "as a cowboy" -n 4
    pmagic render alice@1 "an oil painting of {}" --seed 7 --out paintings
    pmagic render alice - --grid < prompts.txt
    pmagic render alice "as a cowboy" --with ip-adapter --look alice.jpg --scale 0.6
    pmagic render "a photo of a woman" --with ip-adapter --look alice.jpg
    """
    console = Console(quiet=quiet, as_json=as_json)
    if adapter is not None and prompt is None and prompts is None:
        name, prompt = None, name  # one text, for a picture without a persona
        _refuse_persona_alone(prompt)
    if name is None and adapter is None:
        raise UsageError("Missing argument 'name'", "name a persona: `pmagic list` shows them")
    texts = prompt_files.prompts(prompt, prompts)
    output = drawing.Output(out=out, kind=kind, grid=grid, show=show, enlarge=enlarge)
    options = RenderOptions(
        count=count,
        seed=seed,
        steps=steps,
        guidance=guidance,
        scheduler=scheduler,
        negative=negative,
        size=drawing.parse_size(size),
        strength=strength,
        device=device,
        dtype=dtype,
        memory=memory,
        exact=exact,
    )
    given = read(adapter, look or [], scale)
    scenes, personas, file_names = _persona_scenes(console, name, texts) if name is not None else _plain_scenes(texts)
    spec = find_base(list(personas.values()), base) if personas else base_options.choose_base(base)
    prepare_drawing = partial(via_server.prepare, console, personas, scenes, options, spec=spec, adapter=given)
    drawing.draw(console, output, prepare_drawing, file_names)


def _persona_scenes(console: Console, name: str, texts: Sequence[str]) -> Scenes:
    """The scenes of a persona, the persona itself, and a file name for each scene."""
    address, persona = Library(settings.library_dir()).load(name)
    full_prompts = [render_prompt(text, str(address)) for text in texts]
    if any(bare_names(full_prompt, [address.name]) for full_prompt in full_prompts):
        console.warn(
            f"without brackets, {address.name} is an ordinary word in a prompt: for the persona write "
            f"{NAME} or <{address.name}>"
        )
    scenes = [Scene(prompt=full_prompt, title=title_of(full_prompt, address.name)) for full_prompt in full_prompts]
    file_names = [f"{address.name}-{drawing.slug(text.replace(NAME, ''))}" for text in texts]
    return scenes, {"": (address, persona)}, file_names


def _plain_scenes(texts: Sequence[str]) -> Scenes:
    """The same for whole prompts without a persona."""
    prompts = [plain_prompt(text) for text in texts]
    return [Scene(prompt=each, title=each) for each in prompts], {}, [drawing.slug(each) for each in prompts]


def _refuse_persona_alone(text: str | None) -> None:
    """Raises UsageError for a persona's name where a prompt must stand."""
    if text is not None and text in Library(settings.library_dir()).names():
        raise UsageError(
            f"{text} is a persona, and no prompt says what to draw",
            f'add one, as in `pmagic render {text} "as a cowboy"`',
        )
