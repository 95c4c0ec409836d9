"""Plots of the probe: the curve with its stages, and the UNet's attention maps over the photo."""

# T timesteps . h, w of the latents

from typing import Any

import torch
from PIL import Image

from pmagic.engine.figures import INK, figure, png
from pmagic.engine.probe import Probe, isotonic

_STAGES = ("first static", "dynamic", "second static")
_SHADES = ("#e8e8e8", "#cfe8d5", "#e8e8e8")
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
