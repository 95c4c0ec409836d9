"""Weights, noises and sketches of the golden numbers, made from nothing but SHAKE-256: the same bits on any machine.

README.md beside this file gives the recipe in words. It needs numpy and safetensors only.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

HERE = Path(__file__).parent
FILES = {
    "unet": "sd/unet/diffusion_pytorch_model.safetensors",
    "vae": "sd/vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "sd/text_encoder/model.safetensors",
    "clip": "clip/model.safetensors",
}
# The factor of a matrix, where it is not 1: (part, end of the name, gain); the first that fits counts.
GAINS = (
    ("unet", "conv_out.weight", 0.3),  # so that no disturbance of the latents grows from step to step
    ("unet", "attn2.to_q.weight", 2.0),  # so that attention distinguishes the text positions
    ("unet", "attn2.to_v.weight", 2.0),
    ("text_encoder", "q_proj.weight", 2.0),  # so that some tokens gather more attention than others
    ("mapper", "dynamic_out.weight", 0.1),  # so that the word's embedding matters beside it
)
PROJECTIONS = 8


def uniform(key: str, shape: Sequence[int]) -> NDArray[np.float64]:
    """Numbers in (-1, 1): each 32 bits r of SHAKE-256(key), lowest byte first, give (2 r + 1) / 2**32 - 1."""
    raw = np.frombuffer(hashlib.shake_256(key.encode()).digest(4 * math.prod(shape)), dtype="<u4")
    return ((2 * raw.astype(np.float64) + 1) / 2**32 - 1).reshape(shape)


def noise(seed: str, name: str, shape: Sequence[int]) -> NDArray[np.float64]:
    """Mean 0 and variance 1, but not normal: uniform in (-sqrt 3, sqrt 3)."""
    return math.sqrt(3) * uniform(f"{seed}/noise/{name}", shape)


def weight(seed: str, part: str, name: str, shape: Sequence[int], stream: str = "") -> NDArray[np.float16]:
    """One parameter, by its name in the files of Stable Diffusion 1.x; every value is exact in float16."""
    values = uniform(f"{seed}/{part}/{stream}{name}", shape)
    if len(shape) > 1:
        gain = next((gain for where, end, gain in GAINS if where == part and name.endswith(end)), 1.0)
        values = gain * math.sqrt(3 / math.prod(shape[1:])) * values
    elif name.endswith(".weight"):  # of a norm
        values = 1 + values / 4
    elif name.endswith(".bias"):
        values = values / 10
    return values.astype(np.float16)


def weights(seed: str, part: str, stream: str = "") -> dict[str, NDArray[np.float16]]:
    """All parameters of a part in shapes.json. stream: names another draw of the part, such as a trained mapper."""
    shapes = json.loads((HERE / "shapes.json").read_text())[part]
    return {name: weight(seed, part, name, shape, stream) for name, shape in sorted(shapes.items())}


def digest(parameters: Mapping[str, NDArray[np.float16]]) -> str:
    """SHA-256 of the values in the order of their names: whether this machine makes the same bits."""
    total = hashlib.sha256()
    for _, values in sorted(parameters.items()):
        total.update(values.astype("<f2").tobytes())
    return total.hexdigest()


@cache
def signs(count: int) -> NDArray[np.float64]:
    """(count, 8) of +1 and -1: the bits of SHAKE-256("sketch N"), highest first; a 0 bit is +1."""
    bits = np.frombuffer(hashlib.shake_256(f"sketch {count}".encode()).digest(count), dtype=np.uint8)
    return 1.0 - 2.0 * np.unpackbits(bits).reshape(count, PROJECTIONS)


def sketch(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Eight sums of all values with signs."""
    return values.astype(np.float64).reshape(-1) @ signs(values.size)


def build(target: Path, prediction: str = "epsilon") -> None:
    """Write `sd` and `clip`, complete with weights in float16, below the folder `target`.

    prediction: what the UNet predicts, by diffusers' names: epsilon or v_prediction.
    """
    seed = json.loads((HERE / "facts.json").read_text())["seed"]
    for name in ("sd", "clip"):
        shutil.copytree(HERE / name, target / name)
    scheduler = target / "sd" / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"prediction_type": prediction}))
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(HERE / "sd" / "tokenizer" / name, target / "clip" / name)
    for part, file in FILES.items():
        save_file(weights(seed, part), target / file, metadata={"format": "pt"})
