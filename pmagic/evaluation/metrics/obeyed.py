"""Obeyed (CLIP R-precision): whether a picture fits its own prompt best among all prompts of the evaluation."""

from pmagic.evaluation.metrics import Sample
from pmagic.evaluation.observers import Observers

ORDER = 30
COLUMNS = {"obeyed": "share of pictures whose own prompt fits best among all prompts"}
PRIMARY = ""


def measure(observers: Observers, case: Sample) -> dict[str, list[float | None]]:
    """0 or 1; None if the evaluation has only one prompt."""
    if len(case.prompts) < 2:
        return {"obeyed": [None] * len(case.pictures)}
    best = observers.fits(case.pictures, case.prompts).argmax(dim=1).tolist()
    return {"obeyed": [float(each == case.prompt) for each in best]}
