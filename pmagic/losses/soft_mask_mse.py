"""Perfusion's denoising loss (Tewel et al. 2023): the soft mask multiplies prediction and target."""

from torch import Tensor

from pmagic.losses import StepOutput

READS_OPEN_PROMPT = False
READS_FACE = False


def loss(output: StepOutput) -> Tensor:
    """mean(mask^2 * error^2) over all cells, those outside of the mask as well, per sample: (B,).

    The mask is divided by its maximum.
    """
    error = output.prediction.to(output.target.dtype) - output.target  # (B, C, h, w)
    mask = output.mask / output.mask.amax(dim=(1, 2, 3), keepdim=True)
    return (mask * error).square().flatten(1).mean(dim=1)
