"""Prompts from a file or standard input; sheets and enlarged copies of their pictures."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pmagic.engine.prompts import MAX_BYTES, read_prompts
from pmagic.errors import NotFound, UsageError

STANDARD_INPUT = "-"


def prompts(text: str | None, file: Path | None) -> list[str]:
    """The prompt of the command line, or the prompts of a file or of standard input. Raises UsageError, NotFound."""
    if text is not None and file is not None:
        raise UsageError("both a prompt and --prompts are given", "leave one of them out")
    if file is not None:
        return [prompt for _, prompt in read_prompts(_read(file), str(file))]
    if text is None:
        raise UsageError("Missing argument 'prompt'", 'say what to draw, as in "as a cowboy", or give --prompts FILE')
    if text != STANDARD_INPUT:
        return [text]
    if sys.stdin.isatty():
        raise UsageError("standard input is the keyboard", "pipe prompts in: pmagic render alice - < prompts.txt")
    return [prompt for _, prompt in read_prompts(sys.stdin.buffer.read(MAX_BYTES + 1), "standard input")]


def write_grid(
    files: Sequence[str], rows: Sequence[str], heads: Sequence[str], target: Path, metadata: Mapping[str, object]
) -> Path:
    """Writes a sheet of the pictures, with metadata of its own. Returns its path.

    rows, heads: a label above each row and each column. Pictures that are less than 128 pixels high are enlarged.
    """
    from PIL import Image

    from pmagic import decoding, pictures, sheet

    images = [Image.open(each) for each in files]
    width, height = images[0].size
    cell = max(height, sheet.CELL)
    if len(images) * cell * max(cell * width // height, 1) > decoding.MAX_PIXELS:
        raise UsageError(
            f"a grid of {len(images)} pictures would be too large", "draw fewer for one grid", kept=", ".join(files)
        )
    columns = len(heads)
    grid = sheet.compose_sheet(
        [(row, images[number * columns : (number + 1) * columns]) for number, row in enumerate(rows)],
        cell=cell,
        heads=heads,
    )
    names = [Path(each).name for each in files]
    return pictures.write_picture(grid, target, {**metadata, "pictures": names, "size": list(grid.size)})


def write_enlarged(file: str, times: int) -> str:
    """Writes a copy beside a picture, `times` as large by Lanczos resampling. Returns the path of the copy."""
    from PIL import Image

    from pmagic import pictures, sheet

    path = Path(file)
    with Image.open(path) as picture:
        large = sheet.scale_to(picture, picture.height * times)
    metadata = {**pictures.read_metadata(path), "enlarged": times}
    return str(pictures.write_picture(large, path.with_stem(f"{path.stem}-x{times}"), metadata))


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {file}", "check the path of the prompts") from error
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}", "check its permissions") from error
