"""Contact sheets: rows of pictures, a line of text above each row and, where wanted, above each column."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pmagic.pictures import ENDINGS, encode_image

CELL, GAP, LINE = 128, 6, 22  # pixels
INK, PAPER = (40, 40, 44), (250, 250, 248)
MAX_CAPTION = 640  # pixels to which a long caption may widen the sheet

Row = tuple[str, Sequence[Image.Image]]


def contact_sheet(path: Path, rows: Sequence[Row], *, cell: int = CELL, heads: Sequence[str] = ()) -> None:
    """Write a sheet of `rows`, each a caption and its pictures; the file says that a machine made it.

    path: ends in .png, .jpg or .webp. A .jpg is half as large. cell, heads: as in `compose_sheet`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = compose_sheet(rows, cell=cell, heads=heads)
    path.write_bytes(encode_image(sheet, ENDINGS[path.suffix], {"kind": "sheet"}))


def compose_sheet(rows: Sequence[Row], *, cell: int = CELL, heads: Sequence[str] = ()) -> Image.Image:
    """The sheet as a picture, every picture `cell` pixels high. heads: a line above each column."""
    font = ImageFont.load_default(14)
    sized = [(caption, [scale_to(picture, cell) for picture in pictures]) for caption, pictures in rows]
    widest = max(sum(picture.width + GAP for picture in pictures) for _, pictures in sized)
    text = max(int(font.getlength(caption)) for caption, _ in sized)
    width = max(widest, min(text, MAX_CAPTION)) + 2 * GAP
    top, height = LINE if heads else 0, LINE + cell + GAP
    sheet = Image.new("RGB", (width, top + len(sized) * height + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    left = GAP
    for head, picture in zip(heads, sized[0][1], strict=False):
        pen.text((left, 4), _shorten(head, font, picture.width), fill=INK, font=font)
        left += picture.width + GAP
    for row, (caption, pictures) in enumerate(sized):
        above, left = top + row * height, GAP
        pen.text((GAP, above + 4), _shorten(caption, font, width - 2 * GAP), fill=INK, font=font)
        for picture in pictures:
            sheet.paste(picture, (left, above + LINE))
            left += picture.width + GAP
    return sheet


def scale_to(picture: Image.Image, height: int) -> Image.Image:
    """The picture `height` pixels high, by Lanczos resampling; unchanged if it has that height."""
    if picture.height == height:
        return picture.convert("RGB")
    size = (round(picture.width * height / picture.height), height)
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
