"""Compiling: a UNet as torch.compile makes it, for the many equal steps of a learning.

It takes minutes once and seconds from torch's own cache afterwards, and a step then answers with other last bits
(`python -m tests.bench compiled`). So it is asked for, and done for nothing but learning's own steps: every other
shape would be compiled anew.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pmagic.errors import UsageProblem

ASTRAY = 0.1  # rounding in bfloat16 changes a gradient by a few hundredths of its length


def compiled(unet: nn.Module) -> Callable[..., tuple[Tensor]]:
    """`unet`, compiled when it is first called, and again for every other shape."""
    return torch.compile(unet, dynamic=False)


def astray(slope: Tensor, compiled: Tensor) -> float:
    """How far the gradient of a compiled step is from the step's own, in its length. Raises UsageProblem above ASTRAY.

    A compiler may be wrong: the kernels that torch 2.13 fuses on a CPU answer with the right noise and a gradient that
    leads elsewhere; without fusing it is right (`python -m tests.bench compiled --shape mini --threads 2` looks).
    """
    apart = float((compiled - slope).norm() / slope.norm())
    if not apart <= ASTRAY:
        raise UsageProblem(
            f"the UNet as torch {torch.__version__} compiles it here leads astray: the gradient of a step differs by "
            f"{apart:.0%} of its length",
            "leave out --compile",
            kept="nothing was learned with it",
        )
    return apart


@contextmanager
def possible() -> Iterator[None]:
    """While inside, compiling is quiet; where a machine cannot do it, that raises UsageProblem."""
    from torch._dynamo.exc import BackendCompilerFailed

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`", UserWarning)
            yield
    except BackendCompilerFailed as error:
        reason = str(error).partition("\n")[0]
        raise UsageProblem(
            f"the UNet cannot be compiled here: {reason}", "install a C++ compiler such as g++, or leave out --compile"
        ) from error
