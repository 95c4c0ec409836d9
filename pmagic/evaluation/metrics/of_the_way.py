"""Of the way: how far a picture goes from a stranger to what the data set itself draws of a person by the same prompt.

The judge recognises less in a pencil sketch than in a photo, whoever drew it. So each prompt has a scale of its own: a
panel of people, drawn by the data set, has the mean identity 0 with each other's photos, and 1 with their own. A
picture without a face has gone none of the way.
"""

from pmagic.evaluation.metrics import Sample
from pmagic.evaluation.observers import Observers

ORDER = 40
COLUMNS = {"of_the_way": "identity between strangers, 0, and what the data set itself draws by the same prompt, 1"}
PRIMARY = ""
PAIRED = ("of_the_way",)


def measure(observers: Observers, case: Sample) -> dict[str, list[float | None]]:
    """About 0 to 1, with both ends passed by some; None where the data set draws nothing itself."""
    scale = case.scale
    if scale is None:
        return {"of_the_way": [None] * len(case.pictures)}
    faces = [scan.embedding for scan in observers.scans(case.pictures)]
    span = scale.person - scale.strangers
    return {
        "of_the_way": [
            0.0 if face is None else (float((case.learned @ face).mean()) - scale.strangers) / span for face in faces
        ]
    }
