"""Plots the loss curves of every training recorded in WORK, one plot for each.

python -m pmagic.mini.curves WORK --plot docs/losses.png
"""

import argparse
import json
from pathlib import Path

from pmagic.engine.figures import INK, figure, png

COLUMNS = 3


def read(file: Path) -> list[dict[str, float]]:
    """The rows that a run has written (training.Run), in order of steps. Of repeated steps, the last row counts."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [row for _, row in sorted({row["step"]: row for row in rows}.items())]


def plot(work: Path) -> bytes:
    """A PNG of every loss of every run over its minutes. Raises SystemExit if nothing was recorded."""
    drawn = [(file.stem, read(file)) for file in sorted(work.glob("**/*.jsonl"))]
    curves = [
        (f"{run}: {loss}", rows, loss) for run, rows in drawn for loss in rows[0] if loss not in ("step", "minutes")
    ]
    if not curves:
        raise SystemExit(f"no training has left a record (*.jsonl) in {work}")
    high = -(-len(curves) // COLUMNS)
    drawing = figure(4.0 * COLUMNS, 2.6 * high)
    for number, (title, rows, loss) in enumerate(curves, 1):
        axes = drawing.add_subplot(high, COLUMNS, number)
        axes.plot([row["minutes"] for row in rows], [row[loss] for row in rows], color=INK, lw=1.5)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("minutes", fontsize=8)
        axes.tick_params(labelsize=8)
    return png(drawing)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--plot", type=Path, default=Path("losses.png"))
    arguments = parser.parse_args()
    arguments.plot.write_bytes(plot(arguments.work))
    print(arguments.plot)
