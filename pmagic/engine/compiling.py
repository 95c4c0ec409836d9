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


def compiled(unet: nn.Module) -> Callable[..., tuple[Tensor]]:
    """`unet`, compiled when it is first called, and again for every other shape."""
    return torch.compile(unet, dynamic=False)


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
