"""`pmagic render`: a kept persona in the scenes of prompts. The simple form of `compose`."""

import re
from pathlib import Path
from typing import Annotated

import typer

from pmagic import settings
from pmagic.cli import drawing, names, scenes
from pmagic.cli.console import Console
from pmagic.cli.options import AsJson, Quiet
from pmagic.engine.prompts import NAME, bare_names, check_text
from pmagic.errors import UsageProblem
from pmagic.library.naming import Address
from pmagic.library.store import Library

_OTHER_NAME = re.compile(r"<([^<>\s:]+)>|\{([^{}]+)\}")  # no persona's name holds a colon, as <lora:x:1> does


def render(
    name: Annotated[str, typer.Argument(help="alice, or alice@1", autocompletion=names.personas)],
    prompt: Annotated[
        str | None,
        typer.Argument(help='"as a cowboy", or a whole prompt with {} where the name stands; - reads one a line.'),
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
    out: drawing.Out = Path(),
    kind: drawing.Format = None,
    grid: drawing.Grid = False,
    show: drawing.Show = False,
    base: drawing.BaseMoved = None,
    device: drawing.Device = None,
    dtype: drawing.Dtype = "auto",
    memory: drawing.Memory = "auto",
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
    texts = scenes.prompts(prompt, prompts)
    order = drawing.Order(
        count, seed, steps, guidance, scheduler, negative, size, out, base, device, dtype, memory, kind, grid, show
    )
    address, persona = Library(settings.library_dir()).load(name)
    wholes = [whole_prompt(text, address) for text in texts]
    if any(bare_names(whole, [address.name]) for whole in wholes):
        console.warn(
            f"{address.name} is an ordinary word where it stands without brackets in a prompt: for the persona write "
            f"{NAME} or <{address.name}>"
        )
    card = drawing.base_of([(address, persona)], base)
    sketches = [
        drawing.Sketch(
            cast={"": (address, persona)},
            prompt=whole,
            shown=whole.replace(NAME, f"<{address.name}>"),
            file_name=f"{address.name}-{drawing.slug(text.replace(NAME, ''))}",
            regions={},
            edit=None,
            story={},
        )
        for text, whole in zip(texts, wholes, strict=True)
    ]
    drawing.draw(console, order, card, order.settings([persona], card), sketches)


def whole_prompt(prompt: str, address: Address) -> str:
    """`as a cowboy` -> `a photo of {} as a cowboy`; a prompt that names the persona is taken as it is.

    `{}`, `<alice>` and `{alice}` (or `<alice@1>`) all stand for the name; another name in brackets is refused.
    """
    check_text(prompt)
    for own in (str(address), address.name):
        prompt = prompt.replace(f"<{own}>", NAME).replace(f"{{{own}}}", NAME)
    other = _OTHER_NAME.search(prompt)
    if other:
        raise UsageProblem(
            f"the prompt names {other[0]}, but {address.name} is drawn",
            f"write {NAME} or <{address.name}> instead; `pmagic compose` draws several personas together",
        )
    return prompt if NAME in prompt else f"a photo of {NAME} {prompt}".strip()
