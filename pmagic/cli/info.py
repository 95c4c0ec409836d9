"""`pmagic info`: what a picture says of itself, and the command that draws it again."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from pmagic.cli.console import Console
from pmagic.errors import PhotoRefused

_OPTIONS = ("seed", "steps", "guidance", "scheduler", "negative", "size")


def info(
    picture: Annotated[Path, typer.Argument(help="A PNG that pmagic has drawn.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show how a picture was made, and the command that makes it again. Example: pmagic info alice-as-a-cowboy.png"""
    from pmagic import pictures

    story = pictures.read_story(picture)
    command = repeat(story)
    lines = [f"{key}: {value}" for key, value in story.items() if value not in ("", None)]
    Console(as_json=as_json).result([*lines, "again:", f"  {command}"], {**story, "command": command})


def repeat(story: Mapping[str, object]) -> str:
    """The command line that draws the picture of this story, quoted for a shell; PhotoRefused where it says too little.

    A story is a text that anybody may have written: it is shown, never run.
    """
    size = story.get("size")
    told = {**story, "size": "x".join(str(side) for side in size) if isinstance(size, list) else size}
    lacking = [name for name in ("persona", "prompt", *_OPTIONS) if not isinstance(told.get(name), str | int | float)]
    if lacking:
        raise PhotoRefused(f"the picture does not say its {', '.join(lacking)}", "give a PNG that pmagic has written")
    options = [word for name in _OPTIONS for word in (f"--{name}", str(told[name]))]
    if story.get("verb") == "compose":
        return shlex.join(["pmagic", "compose", str(told["prompt"]), *options, *_composed(story)])
    return shlex.join(["pmagic", "render", str(told["persona"]), str(told["prompt"]), *options])


def _composed(story: Mapping[str, object]) -> Iterator[str]:
    """The options of compose. A picture does not say where its background was: BACKGROUND and MASK stand for files."""
    for name in ("layout", "mask_text", "box", "soft_edge"):
        if name in story:
            yield from (f"--{name.replace('_', '-')}", str(story[name]))
    yield from (word for name in ("background", "mask") if name in story for word in (f"--{name}", name.upper()))
    if story.get("fit_mask"):
        yield "--fit-mask"
