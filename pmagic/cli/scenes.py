"""Several prompts at once, and the one picture that shows what came of them."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pmagic.errors import NotFound, UsageProblem

STANDARD_INPUT = "-"
_MAX_BYTES = 1024**2


def prompts(text: str | None, file: Path | None) -> list[str]:
    """The prompt that was typed, or one for each line of a file or of standard input; empty lines do not count.

    Raises UsageProblem, NotFound.
    """
    if text is not None and file is not None:
        raise UsageProblem("both a prompt and --prompts are given", "leave one of them out")
    if file is not None:
        return _lines(_read(file), str(file))
    if text is None:
        raise UsageProblem("Missing argument 'prompt'", 'say what to draw, as in "as a cowboy", or give --prompts FILE')
    if text != STANDARD_INPUT:
        return [text]
    if sys.stdin.isatty():
        raise UsageProblem("standard input is the keyboard", "pipe prompts in: pmagic render alice - < prompts.txt")
    return _lines(sys.stdin.buffer.read(_MAX_BYTES + 1), "standard input")


def write_grid(files: Sequence[str], columns: int, target: Path, story: Mapping[str, object]) -> Path:
    """The pictures side by side, `columns` to a row, as one more picture with a story of its own."""
    from PIL import Image

    from pmagic import decoding, pictures

    shown = [Image.open(each).convert("RGB") for each in files]
    width, height = shown[0].size
    if columns * width * height * (len(shown) // columns) > decoding.MAX_PIXELS:
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
            return opened.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {file}", "check the path of the prompts") from error
    except OSError as error:
        raise UsageProblem(f"{file} cannot be read: {error.strerror}", "check its permissions") from error


def _lines(data: bytes, source: str) -> list[str]:
    if len(data) > _MAX_BYTES:
        raise UsageProblem(f"{source} holds more than 1 MB", "give one prompt a line")
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UsageProblem(f"{source} is not UTF-8 text: {error.reason}", "save it as UTF-8") from error
    found = [line for line in lines if line]
    if not found:
        raise UsageProblem(f"{source} holds no prompt", "write one a line")
    return found
