"""T-Sim: how well a picture fits its prompt, with the plain word in place of the name (paper, Sec. 4.1).

CLIPScore (Hessel et al. 2021) with the base's observer, a CLIP ViT-B/32 for Stable Diffusion. The text has the prefix
"A photo depicts ", and the score is 2.5 max(cosine, 0). Other papers report the raw cosine as CLIP-T.
"""

from pmagic.evaluation.metrics import Sample
from pmagic.evaluation.observers import Observers
from pmagic.vision import clip

ORDER = 10
COLUMNS = {
    "t_sim": f"CLIPScore, {clip.WEIGHT} max(cosine, 0), of picture and prompt",
    "t_cosine": "the raw cosine of picture and prompt",
}
PRIMARY = "t_sim"


def measure(observers: Observers, sample: Sample) -> dict[str, list[float | None]]:
    """t_sim in [0, 2.5], t_cosine in [-1, 1]."""
    cosines = observers.clip_similarity(sample.pictures, sample.prompts)[:, sample.prompt].tolist()
    return {"t_sim": [clip.WEIGHT * max(each, 0.0) for each in cosines], "t_cosine": cosines}
