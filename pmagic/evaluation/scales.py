"""Scales: how like a person's drawings by the data set itself are, and a stranger's, prompt by prompt."""

# N people of a panel . E width of the judge's embedding

from collections.abc import Sequence

import numpy as np
from PIL import Image

from pmagic.datasets import Individual
from pmagic.evaluation.metrics import Scale
from pmagic.evaluation.observers import Observers


def measure(observers: Observers, panel: Sequence[Individual], prompt: str, size: tuple[int, int]) -> Scale | None:
    """Over a panel of people, each drawn once by the data set: the mean cosines of drawings and photos learned from.

    size: width and height, in pixels, of the pictures that will be put on this scale; small ones are less like. None
    where the data set draws nothing by this prompt, or tells its people no better apart than strangers.
    """
    shown = [who for who in panel if prompt in who.drawings]
    drawn, photos = [], []
    for who in shown:
        drawing = observers.face(who.drawings[prompt]().image.resize(size, Image.Resampling.BOX))
        photo = observers.face(who.learned[0]().image)
        if drawing is not None and photo is not None:
            drawn.append(drawing)
            photos.append(photo)
    if len(drawn) < 2:
        return None
    cosines = np.stack(drawn) @ np.stack(photos).T  # (N, N)
    own = float(cosines.diagonal().mean())
    others = float((cosines.sum() - cosines.trace()) / (cosines.size - len(cosines)))
    return Scale(others, own) if own > others else None
