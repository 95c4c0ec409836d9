"""The error of the predicted noise over the whole picture, background included: what DreamBooth and LoRA train with."""

from torch import Tensor

from pmagic.losses import StepOutput

READS_OPEN_PROMPT = False
READS_FACE = False


def loss(output: StepOutput) -> Tensor:
    """Mean squared error per sample: (B,)."""
    return (output.prediction.to(output.target.dtype) - output.target).square().flatten(1).mean(dim=1)
