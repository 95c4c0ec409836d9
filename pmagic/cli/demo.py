"""`pmagic demo`: runs the commands that learn a shipped portrait and draw it in four prompts, and writes one sheet."""

import hashlib
import io
import json
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from pmagic import settings
from pmagic.cli import learn, render, sample
from pmagic.cli.console import Console, duration
from pmagic.cli.options import AsJson, Quiet
from pmagic.errors import UsageError
from pmagic.library.store import Library

NAME, BASE = "alice", "mini"
PROMPTS = ("as a cowboy", "wearing a santa hat in the snow", "as an astronaut in space", "an oil painting of {}")
EACH = 2  # pictures of each prompt
CELL = 216  # pixels of a picture's height on the sheet


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the pictures and the sheet.")] = Path("demo"),
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Learn a shipped portrait on the shipped base, draw it in four prompts, and put all on one sheet.

    The persona is kept in your library as alice; `pmagic rm alice` removes it. Nothing is downloaded.

    \b
    pmagic demo
    """
    from PIL import Image

    from pmagic import sheet

    console = Console(quiet=quiet, as_json=as_json)
    portrait = out / f"{NAME}.png"
    sample.copy_samples(out)
    start = time.monotonic()
    columns = []
    address = _find_persona(portrait)
    if address is None:
        console.say_always(f"$ pmagic learn {portrait} --name {NAME} --base {BASE}")
        address = _run_command(learn.learn, photo=[portrait], name=[NAME], base=BASE, quiet=quiet)["persona"]
    learn_seconds = time.monotonic() - start
    for prompt in PROMPTS:
        console.say_always(f'$ pmagic render {NAME} "{prompt}" -n {EACH} --out {out}')
        answer = _run_command(render.render, name=address, prompt=prompt, count=EACH, out=out, quiet=quiet)
        columns.append([Image.open(picture["file"]) for picture in answer["pictures"]])
    render_seconds = time.monotonic() - start - learn_seconds
    rows = [
        (f"seed {seed}", [Image.open(portrait), *pictures]) for seed, pictures in enumerate(zip(*columns, strict=True))
    ]
    target = out / "contact-sheet.png"
    sheet.contact_sheet(
        target, rows, cell=CELL, heads=("the one photo", *(prompt.replace("{}", NAME) for prompt in PROMPTS))
    )
    console.say_always(
        f"learned in {duration(learn_seconds)}, drew {EACH * len(PROMPTS)} pictures in {duration(render_seconds)}; "
        f"look at {target}, then try: pmagic list"
    )
    seconds = {"learn": round(learn_seconds, 1), "render": round(render_seconds, 1)}
    console.result([str(target)], {"persona": address, "sheet": str(target), "seconds": seconds})


def _find_persona(portrait: Path) -> str | None:
    """The address of the demo's persona if an earlier run has made it; None if the name is free."""
    library = Library(settings.library_dir())
    if not library.versions(NAME):
        return None
    address, manifest = library.verify(NAME)
    if manifest.photos != (hashlib.sha256(portrait.read_bytes()).hexdigest(),) or manifest.base != BASE:
        raise UsageError(
            f"your library has another persona {NAME!r}, and the demo would add a version to it",
            f"rename it with `pmagic mv {NAME} NEW`, or set PMAGIC_HOME to another folder for the demo",
            kept=f"{address} as it is",
        )
    return str(address)


def _run_command(command: Callable[..., None], **options: Any) -> dict[str, Any]:
    """Runs a command of this program. Returns its JSON document."""
    answer = io.StringIO()
    with redirect_stdout(answer):
        command(as_json=True, **options)
    return json.loads(answer.getvalue())
