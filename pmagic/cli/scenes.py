"""Several prompts at once, and the one picture that shows what came of them."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pmagic.engine.prompts import MAX_BYTES, read_prompts
from pmagic.errors import NotFound, UsageProblem

STANDARD_INPUT = "-"


def prompts(text: str | None, file: Path | None) -> list[str]:
    """The prompt that was typed, or those of a file or of standard input (engine.prompts.read_prompts).

    Raises UsageProblem, NotFound.
    """
    if text is not None and file is not None:
        raise UsageProblem("both a prompt and --prompts are given", "leave one of them out")
    if file is not None:
        return [prompt for _, prompt in read_prompts(_read(file), str(file))]
    if text is None:
        raise UsageProblem("Missing argument 'prompt'", 'say what to draw, as in "as a cowboy", or give --prompts FILE')
    if text != STANDARD_INPUT:
        return [text]
    if sys.stdin.isatty():
        raise UsageProblem("standard input is the keyboard", "pipe prompts in: pmagic render alice - < prompts.txt")
    return [prompt for _, prompt in read_prompts(sys.stdin.buffer.read(MAX_BYTES + 1), "standard input")]


def write_grid(files: Sequence[str], columns: int, target: Path, story: Mapping[str, object]) -> Path:
    """The pictures side by side, `columns` to a row, as one more picture with a story of its own."""
    from PIL import Image

    from pmagic import pictures

    shown = [Image.open(each).convert("RGB") for each in files]
    width, height = shown[0].size
    if columns * width * height * (len(shown) // columns) > pictures.MAX_PIXELS:
        raise UsageProblem(
            f"a grid of {len(shown)} pictures would be too large", "draw fewer for one grid", kept=", ".join(files)
        )
    sheet = Image.new("RGB", (columns * width, len(shown) // columns * height))
    for number, picture in enumerate(shown):
        sheet.paste(picture, (number % columns * width, number // columns * height))
    names = [Path(each).name for each in files]
    return pictures.write_picture(sheet, target, {**story, "pictures": names, "size": list(sheet.size)})


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {file}", "check the path of the prompts") from error
    except OSError as error:
        raise UsageProblem(f"{file} cannot be read: {error.strerror}", "check its permissions") from error
