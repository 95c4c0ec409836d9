"""Of the way: identity on a scale from a stranger (0) to the data set's own drawing of the person for the prompt (1).

The judge measures less identity in a pencil sketch than in a photo, whoever drew it. So each prompt has its own scale,
from the data set's drawings of a panel of people: their mean identity is 0 with the photos of the others, and 1 with
their own photos. A picture without a face counts as 0.
"""

from pmagic.evaluation.metrics import Sample
from pmagic.evaluation.observers import Observers

ORDER = 40
COLUMNS = {"of_the_way": "identity between strangers, 0, and what the data set itself draws by the same prompt, 1"}
PRIMARY = ""
PAIRED = ("of_the_way",)


def measure(observers: Observers, sample: Sample) -> dict[str, list[float | None]]:
    """About 0 to 1, for some pictures below 0 or above 1; None if there is no scale for the prompt."""
    scale = sample.scale
    if scale is None:
        return {"of_the_way": [None] * len(sample.pictures)}
    faces = [scan.embedding for scan in observers.scans(sample.pictures)]
    span = scale.person - scale.strangers
    return {
        "of_the_way": [
            0.0 if face is None else (float((sample.learned @ face).mean()) - scale.strangers) / span for face in faces
        ]
    }
