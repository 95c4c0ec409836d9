"""Masked denoising loss (paper, Eq. 2): the squared error where the subject is."""

from torch import Tensor

from pmagic.losses import StepOutput

READS_OPEN_PROMPT = False
READS_FACE = False


def loss(output: StepOutput) -> Tensor:
    """sum(mask * error^2) / sum(mask) per sample, the mask repeated over the latent channels: (B,)."""
    error = (output.prediction.to(output.target.dtype) - output.target).square()  # (B, C, h, w)
    mask = output.mask.expand_as(error)
    return (mask * error).sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3))
