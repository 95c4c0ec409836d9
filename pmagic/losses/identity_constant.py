"""Identity loss with the mean of lambda_id(t) as its weight at every t, to compare Eq. 4 with."""

# B batch

import math

from torch import Tensor

from pmagic.losses import StepOutput
from pmagic.losses.identity import distance

READS_OPEN_PROMPT = False
READS_FACE = True
WEIGHT = 2 / math.pi  # the mean of cos(pi t / 2T) over 0 <= t <= T


def loss(output: StepOutput) -> Tensor:
    """2 / pi * (1 - cosine) per sample, range [0, 4 / pi]: (B,)."""
    return WEIGHT * distance(output)
