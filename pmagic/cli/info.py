"""`pmagic info`: the settings stored in a picture, and the command that draws it again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, cast

import typer

from pmagic.cli import reproduce
from pmagic.cli.console import Console, on_one_line
from pmagic.cli.options import AsJson, Quiet
from pmagic.errors import PhotoRefused

SHOWN = 2000  # characters of another program's text


def info(
    picture: Annotated[Path, typer.Argument(help="A picture drawn by pmagic or by another program.")],
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Show how a picture was made, and the command that gives the same bytes again.

    For a picture of another program, show the text that the program stored in it.

    \b
    pmagic info alice-as-a-cowboy.png
    pmagic info -q alice-as-a-cowboy.png    (the command alone)
    """
    from pmagic import pictures

    console = Console(quiet=quiet, as_json=as_json)
    try:
        metadata = pictures.read_metadata(picture)
    except PhotoRefused:
        texts = pictures.read_foreign_texts(picture)
        if not texts:
            raise
        _show_foreign(console, picture, texts, quiet)
        return
    unrepeatable = metadata.get("kind") in reproduce.UNREPEATABLE
    command = "" if unrepeatable else reproduce.repeat(metadata)
    if unrepeatable:
        console.warn(f"this is a {metadata['kind']}: no single command draws it again")
    elif batch := reproduce.batch_of(metadata):
        console.warn(
            f"this picture was one of {len(batch)} drawn at once, which changes last bits: the command draws them all, "
            f"and this is number {batch.index(cast(int, metadata['seed'])) + 1} of them, with seed {metadata['seed']}"
        )
    elif isinstance(metadata.get("at_once"), int) and metadata["at_once"] != 1:
        console.warn(
            f"this picture was one of {metadata['at_once']} drawn at once: drawn alone, its last bits may differ"
        )
    if command and isinstance(metadata.get("enlarged"), int):
        console.warn(
            f"this copy is enlarged {metadata['enlarged']} times: the command draws the picture in its own size"
        )
    if command:
        for each in reproduce.find_changes(metadata):
            console.warn(on_one_line(each))
    lines = [on_one_line(f"{key}: {value}") for key, value in metadata.items() if value not in ("", None)]
    output = (
        [each for each in [command] if each] if quiet else [*lines, *(["again:", f"  {command}"] if command else [])]
    )
    console.result(output, {**metadata, "command": command, "warnings": console.warnings})


def _show_foreign(console: Console, picture: Path, texts: Mapping[str, str], quiet: bool) -> None:
    """Prints the text that another program stored in a picture. No command follows from it."""
    console.warn(f"{picture} holds no settings of pmagic; another program wrote what is shown")
    lines = [line for key, text in texts.items() for line in _block(key, text)]
    document = {"written_by": "another program", "texts": texts, "command": "", "warnings": console.warnings}
    console.result([] if quiet else lines, document)


def _block(key: str, text: str) -> list[str]:
    """The text behind its name; one of several lines stands below it, indented, so that no line looks like a name."""
    shown = text[:SHOWN].splitlines() or [""]
    if len(text) > SHOWN:
        shown[-1] += f" ... ({len(text)} characters, all of them with --json)"
    return [f"{key}: {shown[0]}"] if len(shown) == 1 else [f"{key}:", *(f"  {line}" for line in shown)]
