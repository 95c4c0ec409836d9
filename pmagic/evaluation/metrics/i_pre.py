"""I-Pre: identity preservation (paper, Sec. 4.1).

The mean cosine between the embedding of the largest face and those of the photos learned from. The embeddings are the
judge's, a recogniser that no loss uses. A picture without a face counts as -1.
"""

import numpy as np

from pmagic.evaluation.metrics import Sample
from pmagic.evaluation.observers import Observers

NOBODY = -1.0
ORDER = 20
COLUMNS = {
    "i_pre": "cosine of the face with the photos learned from, -1 where no face is found",
    "i_found": "the same, of pictures with a face alone",
    "i_unseen": "cosine with photos not learned from, -1 where no face is found: a copy would lose here",
    "detected": "share of pictures in which a face is found",
}
PRIMARY = "i_pre"


def measure(observers: Observers, sample: Sample) -> dict[str, list[float | None]]:
    """Cosines in [-1, 1], detected 0 or 1. i_found is None without a face, i_unseen without usable unseen photos."""
    faces = [scan.embedding for scan in observers.scans(sample.pictures)]
    found = [None if face is None else _likeness(face, sample.learned) for face in faces]
    return {
        "i_pre": [NOBODY if each is None else each for each in found],
        "i_found": found,
        "i_unseen": [_unseen(face, sample.unseen) for face in faces],
        "detected": [float(each is not None) for each in found],
    }


def _unseen(face: np.ndarray | None, others: np.ndarray) -> float | None:
    if not len(others):
        return None
    return NOBODY if face is None else _likeness(face, others)


def _likeness(face: np.ndarray, known: np.ndarray) -> float:
    """The mean cosine of a face (E,) with known faces (P, E)."""
    return float((known @ face).mean())
