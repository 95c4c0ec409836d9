"""Memory: gradient checkpointing to save it, and out-of-memory errors that say what to do."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch

from pmagic.engine.conditioning import packed_kv
from pmagic.engine.hooks import exchanged_attributes
from pmagic.errors import OutOfMemory

if TYPE_CHECKING:
    from pmagic.bases.pipelines import StockPipeline

# The GPU's allocator says "Tried to allocate 20.00 MiB", the CPU's "you tried to allocate 8589934592 bytes".
_WANTED = re.compile(r"tried to allocate ([\d.]+) ?(\w+)", re.IGNORECASE)


@contextmanager
def gradient_checkpointing(pipeline: "StockPipeline") -> Iterator[None]:
    """While inside, the backward pass recomputes blocks of UNet and autoencoder instead of keeping their activations.

    It saves memory for a third more work (`python -m tests.bench memory`), with the same bits. Only blocks in training
    mode do it; Stable Diffusion's have no dropout, so training mode changes nothing else.
    """
    with ExitStack() as restored:
        for network in (pipeline.unet, pipeline.vae):
            able = [module for module in network.modules() if hasattr(module, "gradient_checkpointing")]
            restored.enter_context(exchanged_attributes(network.modules(), "training", True))
            restored.enter_context(exchanged_attributes(able, "gradient_checkpointing", True))
            network.enable_gradient_checkpointing()  # also sets the checkpointing function
        restored.enter_context(packed_kv(pipeline.unet))  # recomputed blocks need the same hooks
        yield


@contextmanager
def oom_as_problem(what: str, next_step: str) -> Iterator[None]:
    """Turn the allocator's error into OutOfMemory, which says what did not fit and how much was requested."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"there is not enough memory to {what}{_requested_size(error)}", next_step) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):  # the CPU's error has no class of its own
            raise
        raise OutOfMemory(f"there is not enough memory to {what}{_requested_size(error)}", next_step) from error


def _requested_size(error: RuntimeError) -> str:
    found = _WANTED.search(str(error))
    if found is None:
        return ""
    number, unit = found.groups()
    size = f"{float(number) / 1e9:.1f} GB" if unit == "bytes" else f"{number} {unit}"
    return f": one part of it alone takes {size}"
