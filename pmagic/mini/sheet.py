"""Contact sheets: rows of pictures under a line of text each."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

CELL, GAP, LINE = 128, 6, 22
INK, PAPER = (40, 40, 44), (250, 250, 248)


def contact_sheet(path: Path, rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> None:
    """Write a PNG of `rows`, each a caption and its pictures from left to right, 128 pixels a picture."""
    font = ImageFont.load_default(14)
    widest = max(len(pictures) for _, pictures in rows)
    text = max(int(font.getlength(caption)) for caption, _ in rows)
    height = LINE + CELL + GAP
    sheet = Image.new("RGB", (max(widest * (CELL + GAP), text) + 2 * GAP, len(rows) * height + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for row, (caption, pictures) in enumerate(rows):
        pen.text((GAP, row * height + 4), caption, fill=INK, font=font)
        for column, picture in enumerate(pictures):
            cell = picture.convert("RGB").resize((CELL, CELL), Image.Resampling.LANCZOS)
            sheet.paste(cell, (GAP + column * (CELL + GAP), row * height + LINE))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)
