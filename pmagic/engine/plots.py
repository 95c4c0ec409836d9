"""Plots of the probe: the curve with its stages, and the UNet's attention maps over the photo."""

# T timesteps . h, w of the latents

import importlib
import io
import os
import sys
import tempfile
from typing import Any

import torch
from PIL import Image

from pmagic.engine.probe import Probe, isotonic

INK = "#22577a"
_STAGES = ("first static", "dynamic", "second static")
_SHADES = ("#e8e8e8", "#cfe8d5", "#e8e8e8")
_IGNORE_FONTS = "MPL_IGNORE_SYSTEM_FONTS"  # read by matplotlib when it lists fonts
_EVERY = 2  # one map is shown for this many timesteps of the curve


def curve_plot(found: Probe, levels: tuple[float, float]) -> bytes:
    """A PNG of the measured IoU, its monotone fit, both thresholds and the three stages; t falls to the right."""
    times = [t for t, _ in found.curve]
    drawing = figure(7.0, 4.0)
    axes = drawing.subplots()
    edges = (1000, found.bounds.high, found.bounds.low, 0)
    for number, (name, shade) in enumerate(zip(_STAGES, _SHADES, strict=True)):
        left, right = edges[number], edges[number + 1]
        axes.axvspan(right, left, color=shade, lw=0)
        if left - right >= 60:
            axes.text((left + right) / 2, 1.02, name, ha="center", fontsize=9)
    for symbol, level in zip(("λ1", "λ2"), levels, strict=True):
        axes.axhline(level, color="#888888", ls="--", lw=1)
        axes.text(5, level + 0.01, f"{symbol} = {level:g}", fontsize=9, ha="right")
    axes.plot(times, isotonic(found.curve), color=INK, lw=2, label="monotone")
    axes.plot(times, [iou for _, iou in found.curve], "o", color=INK, ms=4, label="measured")
    axes.set(xlim=(1000, 0), ylim=(0, 1), xlabel="timestep t", ylabel="IoU of attention and mask")
    axes.set_title(
        f"dynamic interval {found.bounds.low} ≤ t < {found.bounds.high}" + " (fallback)" * bool(found.fallback_reason),
        pad=18, fontsize=11,
    )  # fmt: skip
    axes.legend(loc="lower right", fontsize=9)
    return png(drawing)


def attention_strip(found: Probe, photo: Image.Image) -> bytes:
    """A PNG strip: the attention maps over t, overlaid on the square photo, with the mask's outline."""
    shown = list(range(0, len(found.curve), _EVERY))
    drawing = figure(1.5 * len(shown), 1.8)
    side = photo.width
    extent = (0, side, side, 0)
    for axes, index in zip(drawing.subplots(1, len(shown)), shown, strict=True):
        t, iou = found.curve[index]
        weights = found.maps[index].float().cpu()
        weights = (weights - weights.min()) / (weights.max() - weights.min()).clamp(min=1e-12)
        axes.imshow(photo.convert("L"), cmap="gray", extent=extent)
        axes.imshow(weights, cmap="inferno", alpha=0.6, extent=extent, interpolation="bilinear")
        cells = _centres(found.mask.shape, side)
        axes.contour(*cells, found.mask.float().cpu(), levels=[0.5], colors="#7cfc00", linewidths=1)
        axes.set_title(f"t = {t}  IoU {iou:.2f}", fontsize=8)
        axes.set_axis_off()
    return png(drawing)


def _centres(shape: torch.Size, side: int) -> tuple[Any, Any]:
    """Pixel coordinates (x, y) of the centres of the mask's cells."""
    height, width = shape
    return (torch.arange(width) + 0.5) * side / width, (torch.arange(height) + 0.5) * side / height


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
