"""Pictures in the terminal: by its own graphics (kitty, sixel) where it has them, else as coloured half blocks."""

import os
import sys
from collections.abc import Sequence

from pmagic.cli.console import Console

COLUMNS = 40  # of text, for one picture


def show_pictures(console: Console, paths: Sequence[str]) -> None:
    """Shows pictures one below the other if standard output is a terminal. Warns if it cannot."""
    if console.as_json or not sys.stdout.isatty():
        console.warn("pictures are shown only where standard output is a terminal")
        return
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        console.warn("this terminal shows no pictures (NO_COLOR or TERM=dumb is set)")
        return
    if os.get_terminal_size(sys.stdout.fileno()).columns == 0:
        console.warn("this terminal does not say how large it is, so it shows no pictures")
        return
    from rich.console import Console as Terminal
    from textual_image.renderable import Image  # the import asks the terminal what it supports

    terminal = Terminal()
    for path in paths:
        terminal.print(Image(path, width=COLUMNS, height="auto"))
