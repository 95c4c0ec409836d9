"""Numbers of other methods' public code on tiny models, and the weights that these had, made from their names alone.

methods/README.md says what each number is.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parent / "methods"


def numbers(name: str) -> dict[str, Tensor]:
    """The numbers of one method, floating-point ones in float64."""
    return load_file(FOLDER / f"{name}.safetensors")


def uniform(name: str, shape: Sequence[int]) -> Tensor:
    """Numbers in [-1, 1) that follow from the name: the upper 53 bits of Philox with the key SHA-256(name)[:16]."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    bits = np.random.Philox(key=key).random_raw(math.prod(shape))
    values = 2.0 * ((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53) - 1.0
    return torch.from_numpy(values.reshape(shape))


def weight(name: str, shape: Sequence[int]) -> Tensor:
    """A weight by its part and parameter: a matrix of unit gain, a norm's weight near 1, or a small bias."""
    values = uniform(name, shape)
    if len(shape) >= 2:
        return values * math.sqrt(3.0 / math.prod(shape[1:]))
    return 1.0 + 0.1 * values if name.endswith(".weight") else 0.1 * values
