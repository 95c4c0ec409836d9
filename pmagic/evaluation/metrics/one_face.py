"""One face: whether a picture shows exactly one person. I-Pre uses only the largest face, and CLIP does not count."""

from pmagic.evaluation.metrics import Sample
from pmagic.evaluation.observers import Observers

ORDER = 50
COLUMNS = {"one_face": "share of pictures in which exactly one face is found"}
PRIMARY = ""
PAIRED = ("one_face",)


def measure(observers: Observers, sample: Sample) -> dict[str, list[float | None]]:
    """0 or 1 for each picture."""
    return {"one_face": [float(scan.count == 1) for scan in observers.scans(sample.pictures)]}
