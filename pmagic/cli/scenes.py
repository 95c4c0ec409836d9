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


def write_grid(
    files: Sequence[str], rows: Sequence[str], heads: Sequence[str], target: Path, story: Mapping[str, object]
) -> Path:
    """The pictures as one more picture with a story of its own: a row for each of `rows`, under a line with its name.

    heads: a line above each column. Pictures that are less than 128 pixels high are enlarged.
    """
    from PIL import Image

    from pmagic import decoding, pictures, sheet

    shown = [Image.open(each) for each in files]
    width, height = shown[0].size
    cell = max(height, sheet.CELL)
    if len(shown) * cell * max(cell * width // height, 1) > decoding.MAX_PIXELS:
        raise UsageProblem(
            f"a grid of {len(shown)} pictures would be too large", "draw fewer for one grid", kept=", ".join(files)
        )
    columns = len(heads)
    grid = sheet.compose_sheet(
        [(row, shown[number * columns : (number + 1) * columns]) for number, row in enumerate(rows)],
        cell=cell,
        heads=heads,
    )
    names = [Path(each).name for each in files]
    return pictures.write_picture(grid, target, {**story, "pictures": names, "size": list(grid.size)})


def write_enlarged(file: str, times: int) -> str:
    """A copy of a picture beside it, `times` as large by Lanczos resampling, for looking at; the path of the copy."""
    from PIL import Image

    from pmagic import pictures, sheet

    path = Path(file)
    with Image.open(path) as picture:
        large = sheet.scale_to(picture, picture.height * times)
    story = {**pictures.read_story(path), "enlarged": times}
    return str(pictures.write_picture(large, path.with_stem(f"{path.stem}-x{times}"), story))


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
