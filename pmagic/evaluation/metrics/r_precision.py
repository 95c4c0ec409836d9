"""Obeyed (CLIP R-precision): whether a picture fits its own prompt best among all prompts of the evaluation."""

from pmagic.evaluation.metrics import Sample
from pmagic.evaluation.observers import Observers

ORDER = 30
COLUMNS = {"obeyed": "share of pictures whose own prompt fits best among all prompts"}
PRIMARY = ""


def measure(observers: Observers, sample: Sample) -> dict[str, list[float | None]]:
    """0 or 1; None if the evaluation has only one prompt."""
    if len(sample.prompts) < 2:
        return {"obeyed": [None] * len(sample.pictures)}
    best = observers.clip_similarity(sample.pictures, sample.prompts).argmax(dim=1).tolist()
    return {"obeyed": [float(each == sample.prompt) for each in best]}
