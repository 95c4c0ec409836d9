"""Compiling: the UNet through torch.compile, for the many equal steps of training.

Compiling takes minutes once, and seconds from torch's own cache afterwards. The results of a step then differ in their
last bits (`python -m tests.bench compiled`). It is therefore optional, and used for training steps only: every other
shape would be compiled again.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pmagic.engine.hooks import exchanged_attributes, installed_hooks
from pmagic.errors import UsageError

if TYPE_CHECKING:
    from diffusers.models.upsampling import Upsample2D

MAX_GRADIENT_ERROR = 0.1  # relative; rounding to bfloat16 changes a gradient by a few hundredths of its norm


def compile_unet(unet: nn.Module) -> Callable[..., Any]:
    """`unet`, compiled on its first call and again for every other shape."""
    made, doubling = torch.compile(unet, dynamic=False), doubling_parts(unet)

    def ask(*given: Any, **named: Any) -> Any:
        with patched_upsampling(doubling):
            return made(*given, **named)

    return ask


def doubling_parts(unet: nn.Module) -> "list[Upsample2D]":
    """The upsampling layers that double a map with torch's interpolation."""
    from diffusers.models.upsampling import Upsample2D

    return [part for part in unet.modules() if isinstance(part, Upsample2D) and part.interpolate and part.norm is None]


@contextmanager
def patched_upsampling(doubling: "Sequence[Upsample2D]") -> Iterator[None]:
    """While inside, these layers upsample by repeating each cell, which gives the same values.

    The backward pass of torch's interpolation is compiled to an addition into a tensor of zeros. If only a division
    by 1 reads that tensor, as in diffusers' residual blocks, torch 2.13 fuses the two on a CPU and divides before it
    adds, so that all earlier layers receive no gradient. The gradient of a repetition is a sum, which is fused
    correctly.
    """
    hooks = [(part, _repeat) for part in doubling]
    with exchanged_attributes(doubling, "interpolate", False), installed_hooks(before=hooks):
        yield


def _repeat(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """args: the map (B, C, h, w), and the size of the output if it is not twice that of the map."""
    cells, size = args[0], args[1] if len(args) > 1 else None
    if size is not None:
        return (F.interpolate(cells, size=size, mode="nearest"),), kwargs
    batch, channels, height, width = cells.shape
    twice = cells[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2)
    return (twice.reshape(batch, channels, 2 * height, 2 * width),), kwargs


def check_gradient(slope: Tensor, compiled: Tensor) -> None:
    """Raises UsageError if the gradients of a compiled and an eager step differ by more than MAX_GRADIENT_ERROR.

    The error is relative to the norm of the eager gradient. A compiler may be wrong, and predict the right noise with
    a wrong gradient: see `patched_upsampling`.
    """
    apart = float((compiled - slope).norm() / slope.norm())
    if not apart <= MAX_GRADIENT_ERROR:
        raise UsageError(
            f"the UNet as torch {torch.__version__} compiles it here leads astray: the gradient of a step differs by "
            f"{apart:.0%} of its length",
            "leave out --compile",
            kept="nothing was learned with it",
        )


@contextmanager
def compile_errors() -> Iterator[None]:
    """While inside, compiling is quiet; raises UsageError if this machine cannot compile."""
    from torch._dynamo.exc import BackendCompilerFailed

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`", UserWarning)
            yield
    except BackendCompilerFailed as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"the UNet cannot be compiled here: {reason}", "install a C++ compiler such as g++, or leave out --compile"
        ) from error
