"""Figures of matplotlib, without a window and without a search for fonts. This module does not import torch."""

import importlib
import io
import os
import sys
import tempfile
from typing import Any

INK = "#22577a"
_IGNORE_FONTS = "MPL_IGNORE_SYSTEM_FONTS"  # read by matplotlib when it lists fonts


def figure(width: float, height: float) -> Any:
    """A separate figure (in inches), without pyplot's list of open figures and without a window."""
    _import_font_manager()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(drawing)
    return drawing


def _import_font_manager() -> None:
    """Import matplotlib's font manager without a search for system fonts; only matplotlib's own fonts are used here.

    The search would run `fc-list` and cache its list in the user's home. The list without system fonts is not cached
    there, because other programs would read it.
    """
    if "matplotlib.font_manager" in sys.modules:
        return
    import matplotlib

    place, ignored = matplotlib.get_cachedir, os.environ.get(_IGNORE_FONTS)
    with tempfile.TemporaryDirectory() as folder:
        matplotlib.get_cachedir = lambda: folder
        os.environ[_IGNORE_FONTS] = "1"
        try:
            importlib.import_module("matplotlib.font_manager")
        finally:
            matplotlib.get_cachedir = place
            if ignored is None:
                del os.environ[_IGNORE_FONTS]


def png(drawing: Any) -> bytes:
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png")
    return buffer.getvalue()
