"""Identity scales, one per prompt: the identity of the data set's own drawings with their person and with strangers."""

# N people of the panel . E width of the judge's embedding

from collections.abc import Sequence

import numpy as np
from PIL import Image

from pmagic.datasets import Individual
from pmagic.evaluation.metrics import Scale
from pmagic.evaluation.observers import Observers


def measure(observers: Observers, panel: Sequence[Individual], prompt: str, size: tuple[int, int]) -> Scale | None:
    """The mean cosines between the data set's drawings (one per person of the panel) and the photos learned from.

    size: width and height, in pixels, of the pictures to be measured; small pictures have lower identity. None if the
    data set has no drawings for this prompt (fewer than two with a face), or if they are not closer to their own person
    than to strangers.
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
