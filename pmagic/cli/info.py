"""`pmagic info`: what a picture says of itself, and the command that draws it again."""

from pathlib import Path
from typing import Annotated

import typer

from pmagic.cli import stories
from pmagic.cli.console import Console, on_one_line
from pmagic.cli.options import AsJson, Quiet


def info(
    picture: Annotated[Path, typer.Argument(help="A PNG, JPEG or WEBP that pmagic has drawn.")],
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Show how a picture was made, and the command that gives the same bytes again.

    \b
    pmagic info alice-as-a-cowboy.png
    pmagic info -q alice-as-a-cowboy.png    (the command alone)
    """
    from pmagic import pictures

    story = pictures.read_story(picture)
    console = Console(quiet=quiet, as_json=as_json)
    unrepeatable = story.get("kind") in stories.UNREPEATABLE
    command = "" if unrepeatable else stories.repeat(story)
    if unrepeatable:
        console.warn(f"this is a {story['kind']}: no single command draws it again")
    elif isinstance(story.get("at_once"), int):
        console.warn(f"it was one of {story['at_once']} drawn at once: drawn alone, its last bits may differ")
    if command and isinstance(story.get("enlarged"), int):
        console.warn(f"this copy is enlarged {story['enlarged']} times: the command draws the picture in its own size")
    if command:
        for each in stories.not_here(story):
            console.warn(on_one_line(each))
    lines = [on_one_line(f"{key}: {value}") for key, value in story.items() if value not in ("", None)]
    shown = (
        [each for each in [command] if each] if quiet else [*lines, *(["again:", f"  {command}"] if command else [])]
    )
    console.result(shown, {**story, "command": command, "warnings": console.warnings})
