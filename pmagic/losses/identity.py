"""Identity loss (paper, Eqs. 3 and 4): the distance between the predicted face and the photo's.

The prediction gives the clean latents X_0|t. Their face crop is decoded and embedded, and the loss is the distance of
the embedding to the photo's. A prediction at large t is blurred, so the weight falls with t.
"""

# B batch

import math

from torch import Tensor

from pmagic.losses import StepOutput

READS_OPEN_PROMPT = False
READS_FACE = True
TIMESTEPS = 1000  # T of Eq. 4


def loss(output: StepOutput) -> Tensor:
    """lambda_id(t) * (1 - cosine) per sample, range [0, 2]: (B,)."""
    distances = distance(output)
    return weight(output.t).to(distances.dtype) * distances


def distance(output: StepOutput) -> Tensor:
    """1 - cosine between the face in X_0|t and the photo's, range [0, 2]: (B,)."""
    if output.identity_distance is None:
        raise ValueError("the identity loss needs a recogniser and the photo's face")
    return output.identity_distance(clean(output))


def weight(t: Tensor) -> Tensor:
    """lambda_id(t) = cos(pi t / 2T) (Eq. 4), range (0, 1], 1 at t = 0: (B,)."""
    return (t.double() * (math.pi / 2 / TIMESTEPS)).cos()


def clean(output: StepOutput) -> Tensor:
    """X_0|t, the clean latents that the prediction implies: (B, C, h, w).

    From x_t = a x_0 + s noise with a^2 + s^2 = 1; a velocity is a noise - s x_0.
    """
    if output.signal is None:
        raise ValueError("the identity loss needs how much signal is left at each timestep")
    signal = output.signal.to(output.noisy.dtype)[:, None, None, None]
    a, s = signal.sqrt(), (1 - signal).sqrt()
    prediction = output.prediction.to(output.noisy.dtype)
    if output.velocity:
        return a * output.noisy - s * prediction
    return (output.noisy - s * prediction) / a
