"""Memory: doing with less of it, and running out of it as a problem a person can act on."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch

from pmagic.engine.conditioning import packed_kv
from pmagic.engine.hooks import exchanged_attributes
from pmagic.errors import OutOfMemory

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

# "Tried to allocate 20.00 MiB" says a GPU's allocator, "you tried to allocate 8589934592 bytes" the CPU's.
_WANTED = re.compile(r"tried to allocate ([\d.]+) ?(\w+)", re.IGNORECASE)


@contextmanager
def gradient_checkpointing(pipeline: "StableDiffusionPipeline") -> Iterator[None]:
    """While inside, the backward pass computes blocks of UNet and autoencoder again instead of keeping what they saw.

    Less memory for a third more work (`python -m tests.bench memory`), and the same bits. Only blocks in training mode
    do it; Stable Diffusion's have no dropout, so nothing else changes with the mode.
    """
    with ExitStack() as restored:
        for network in (pipeline.unet, pipeline.vae):
            able = [module for module in network.modules() if hasattr(module, "gradient_checkpointing")]
            restored.enter_context(exchanged_attributes(network.modules(), "training", True))
            restored.enter_context(exchanged_attributes(able, "gradient_checkpointing", True))
            network.enable_gradient_checkpointing()  # which also says how
        restored.enter_context(packed_kv(pipeline.unet))  # a block that is computed again needs the hooks it had
        yield


@contextmanager
def oom_as_problem(what: str, next_step: str) -> Iterator[None]:
    """Turns the allocator's refusal into OutOfMemory, which says what did not fit and how much was asked for."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"there is not enough memory to {what}{_wanted(error)}", next_step) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):  # the CPU's refusal has no class of its own
            raise
        raise OutOfMemory(f"there is not enough memory to {what}{_wanted(error)}", next_step) from error


def _wanted(error: RuntimeError) -> str:
    found = _WANTED.search(str(error))
    if found is None:
        return ""
    number, unit = found.groups()
    size = f"{float(number) / 1e9:.1f} GB" if unit == "bytes" else f"{number} {unit}"
    return f": one part of it alone takes {size}"
