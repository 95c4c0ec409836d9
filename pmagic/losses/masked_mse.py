"""Masked denoising loss (paper, Eq. 2): the squared error where the subject is."""

from torch import Tensor

from pmagic.losses import StepOutput

READS_OPEN_PROMPT = False
READS_FACE = False


def loss(moment: StepOutput) -> Tensor:
    """sum(mask * error^2) / sum(mask) per sample, the mask repeated over the latent channels: (B,)."""
    error = (moment.prediction.to(moment.target.dtype) - moment.target).square()  # (B, C, h, w)
    mask = moment.mask.expand_as(error)
    return (mask * error).sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3))
