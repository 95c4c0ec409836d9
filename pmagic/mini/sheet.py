"""Contact sheets: rows of pictures under a line of text each."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pmagic.pictures import ENDINGS, encoded

CELL, GAP, LINE = 128, 6, 22
INK, PAPER = (40, 40, 44), (250, 250, 248)


def contact_sheet(path: Path, rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> None:
    """Write `rows`, each a caption and its pictures 128 pixels high; the file says that a machine made it.

    path: ends in .png, .jpg or .webp. A .jpg is half as large.
    """
    font = ImageFont.load_default(14)
    sized = [(caption, [_high(picture) for picture in pictures]) for caption, pictures in rows]
    widest = max(sum(picture.width + GAP for picture in pictures) for _, pictures in sized)
    text = max(int(font.getlength(caption)) for caption, _ in sized)
    height = LINE + CELL + GAP
    sheet = Image.new("RGB", (max(widest, text) + 2 * GAP, len(sized) * height + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for row, (caption, pictures) in enumerate(sized):
        pen.text((GAP, row * height + 4), caption, fill=INK, font=font)
        left = GAP
        for picture in pictures:
            sheet.paste(picture, (left, row * height + LINE))
            left += picture.width + GAP
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(sheet, ENDINGS[path.suffix], {"kind": "sheet"}))


def _high(picture: Image.Image) -> Image.Image:
    size = (round(picture.width * CELL / picture.height), CELL)
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
