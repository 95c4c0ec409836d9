"""Memory: running out of it is a problem a person can act on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pmagic.errors import OutOfMemory


@contextmanager
def enough_for(what: str, next_step: str) -> Iterator[None]:
    """Turns the allocator's refusal into OutOfMemory, which says what did not fit."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"there is not enough memory to {what}", next_step) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):  # the CPU's refusal has no class of its own
            raise
        raise OutOfMemory(f"there is not enough memory to {what}", next_step) from error
