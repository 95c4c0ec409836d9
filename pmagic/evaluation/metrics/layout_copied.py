"""Layout copied: whether the face has the position and the size that it has in the photo learned from.

Two least-squares slopes over people with their standard errors: the position in the picture on that in the photo, and
the logarithm of the size in the picture on that in the photo. 0: the layout does not depend on the photo; 1: it is
copied. In a picture with several faces the largest counts.
"""

import math

import numpy as np

from pmagic.evaluation.metrics import Sample, Slope
from pmagic.evaluation.observers import Observers

ORDER = 60
COLUMNS = {
    "x_drawn": "where the eyes are in the picture, a share of its width",
    "x_photo": "where they are in the photos learned from, their mean",
    "log_size_drawn": "logarithm of the distance from eyes to mouth, a share of the picture's height",
    "log_size_photo": "the same of the photos learned from, their mean",
}
PRIMARY = ""
SLOPES = {
    "x_copied": Slope(
        "slope over people of the face's place on its place in the photo: 0 not copied, 1 copied", "x_drawn", "x_photo",
        spread=0.03,
    ),
    "size_copied": Slope(
        "slope over people of the face's log size on its log size in the photo: 0 not copied, 1 copied",
        "log_size_drawn", "log_size_photo", spread=0.05,
    ),
}  # fmt: skip


def measure(observers: Observers, sample: Sample) -> dict[str, list[float | None]]:
    """Positions are about 0 to 1, log sizes are negative; None without a face."""
    scans = observers.scans(sample.pictures)
    return {
        "x_drawn": [scan.x for scan in scans],
        "x_photo": [_mean([scan.x for scan in sample.scans])] * len(scans),
        "log_size_drawn": [None if scan.size is None else math.log(scan.size) for scan in scans],
        "log_size_photo": [_mean([math.log(scan.size) for scan in sample.scans if scan.size])] * len(scans),
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
