"""`pmagic render`: a kept persona in the scene of a prompt. The simple form of `compose`."""

import re
from pathlib import Path
from typing import Annotated

import typer

from pmagic import settings
from pmagic.cli import drawing, names
from pmagic.cli.console import Console
from pmagic.errors import UsageProblem
from pmagic.library.naming import Address
from pmagic.library.store import Library

NAME = "{}"
_OTHER_NAME = re.compile(r"<([^<>\s]+)>|\{([^{}]+)\}")


def render(
    name: Annotated[str, typer.Argument(help="alice, or alice@1", autocompletion=names.personas)],
    prompt: Annotated[str, typer.Argument(help='"as a cowboy", or a whole prompt with {} where the name stands.')],
    count: drawing.Count = 1,
    seed: drawing.Seed = 0,
    steps: drawing.Steps = None,
    guidance: drawing.Guidance = None,
    scheduler: drawing.Scheduler = None,
    negative: drawing.Negative = None,
    size: drawing.Size = None,
    out: drawing.Out = Path(),
    base: drawing.BaseMoved = None,
    device: drawing.Device = None,
    dtype: drawing.Dtype = "auto",
    memory: drawing.Memory = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No talk, no progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Draw a persona. Prints the path of each picture; no file is ever overwritten."""
    console = Console(quiet=quiet, as_json=as_json)
    order = drawing.Order(count, seed, steps, guidance, scheduler, negative, size, out, base, device, dtype, memory)
    address, persona = Library(settings.library_dir()).load(name)
    whole = whole_prompt(prompt, address)
    card = drawing.base_of([(address, persona)], base)
    sketch = drawing.Sketch(
        cast={"": (address, persona)},
        prompt=whole,
        shown=whole.replace(NAME, f"<{address.name}>"),
        file_name=f"{address.name}-{drawing.slug(prompt.replace(NAME, ''))}",
        regions={},
        edit=None,
        story={},
    )
    drawing.draw(console, order, card, order.settings(persona, card), sketch)


def whole_prompt(prompt: str, address: Address) -> str:
    """`as a cowboy` -> `a photo of {} as a cowboy`; a prompt that names the persona is taken as it is.

    `{}`, `<alice>` and `{alice}` (or `<alice@1>`) all stand for the name; another name in brackets is refused.
    """
    drawing.check_text(prompt)
    for own in (str(address), address.name):
        prompt = prompt.replace(f"<{own}>", NAME).replace(f"{{{own}}}", NAME)
    other = _OTHER_NAME.search(prompt)
    if other:
        raise UsageProblem(
            f"the prompt names {other[0]}, but {address.name} is drawn",
            f"write {NAME} or <{address.name}> instead; `pmagic compose` draws several personas together",
        )
    return prompt if NAME in prompt else f"a photo of {NAME} {prompt}".strip()
