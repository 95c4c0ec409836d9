"""`pmagic render`: draws one persona. The simple form of `compose`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pmagic import settings
from pmagic.cli import drawing, names, prompt_files, via_server
from pmagic.cli.console import Console
from pmagic.cli.options import AsJson, Quiet
from pmagic.engine.prompts import NAME, bare_names
from pmagic.library.store import Library
from pmagic.tasks.drawing import RenderOptions, Scene, find_base
from pmagic.tasks.prompt_text import render_prompt, title_of


def render(
    name: Annotated[str, typer.Argument(help="alice, or alice@1", autocompletion=names.personas)],
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

    \b
    pmagic render alice "as a cowboy" -n 4
    pmagic render alice@1 "an oil painting of {}" --seed 7 --out paintings
    pmagic render alice - --grid < prompts.txt
    """
    console = Console(quiet=quiet, as_json=as_json)
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
    address, persona = Library(settings.library_dir()).load(name)
    full_prompts = [render_prompt(text, str(address)) for text in texts]
    if any(bare_names(full_prompt, [address.name]) for full_prompt in full_prompts):
        console.warn(
            f"without brackets, {address.name} is an ordinary word in a prompt: for the persona write "
            f"{NAME} or <{address.name}>"
        )
    spec = find_base([(address, persona)], base)
    scenes = [Scene(prompt=full_prompt, title=title_of(full_prompt, address.name)) for full_prompt in full_prompts]
    prepare_drawing = partial(via_server.prepare, console, address, persona, scenes, options, spec=spec)
    names = [f"{address.name}-{drawing.slug(text.replace(NAME, ''))}" for text in texts]
    drawing.draw(console, output, prepare_drawing, names)
