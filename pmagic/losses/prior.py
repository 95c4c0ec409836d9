"""Prior preservation (DreamBooth, Eq. 2): the denoising error of pictures that the base itself drew for the class word.

It has no mask. As the mean over all values it has the scale of `mse` and of `masked_mse`, so weights of 1 mean 1 : 1.
"""

from torch import Tensor

from pmagic.losses import StepOutput

READS_OPEN_PROMPT = False
READS_FACE = False
READS_CLASS_PICTURES = True


def loss(output: StepOutput) -> Tensor:
    """Mean squared error of each class picture: (B,). Raises ValueError if the step has none."""
    if output.class_prediction is None or output.class_target is None:
        raise ValueError("the prior loss needs class pictures, which the step does not have")
    error = output.class_prediction.to(output.class_target.dtype) - output.class_target
    return error.square().flatten(1).mean(dim=1)
