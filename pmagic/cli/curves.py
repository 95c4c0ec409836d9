"""Curves made of characters. They need no numpy, so that `show` starts fast."""

from collections.abc import Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"
_ROWS = 12


def sparkline(values: Sequence[float]) -> str:
    """One character a value, range [0, 1] from bottom to top."""
    return "".join(_BLOCKS[min(int(value * len(_BLOCKS)), len(_BLOCKS) - 1)] for value in values)


def plot(curve: Sequence[tuple[int, float]], low: int, high: int, levels: Sequence[float]) -> list[str]:
    """Lines of text that plot the IoU over t. t falls to the right, as in sampling.

    levels: horizontal lines. low, high: the dynamic interval, which is marked below the plot.
    curve: (t, IoU) with equal steps, largest t first, IoU in [0, 1].
    """
    width = 3
    heights = [round(iou * _ROWS) for _, iou in curve]
    level_rows = {round(level * _ROWS) for level in levels}
    lines = []
    for row in range(_ROWS, -1, -1):
        ground = "╌" if row in level_rows else " "
        marks = "".join(f"{ground}{'●' if height == row else ground}{ground}" for height in heights)
        lines.append(f"{row / _ROWS:4.2f} ┤{marks}")
    stages = "".join("━" * width if low <= t < high else "·" * width for t, _ in curve)
    ends = f"t={curve[0][0]}"
    lines.append(f"     └{'─' * (width * len(curve))}")
    lines.append(f"      {stages}  ━ dynamic")
    lines.append(f"      {ends}{f't={curve[-1][0]}'.rjust(width * len(curve) - len(ends))}")
    return lines
