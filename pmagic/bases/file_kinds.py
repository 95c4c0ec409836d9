"""Recognises a single file of weights by its name, its size and its header. It opens no weights."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

UNREAD = {
    "pickles, which can hold code": (".bin", ".ckpt", ".pt", ".pth"),
    "ONNX": (".onnx", ".onnx_data", ".pb"),
    "Flax": (".msgpack",),
    "TensorFlow": (".h5",),
    "OpenVINO": (".xml",),
    "GGUF": (".gguf",),
}
WEIGHT_ENDINGS = (".safetensors", *(ending for endings in UNREAD.values() for ending in endings))
_MAX_HEADER = 16 * 1024**2
UNET, VAE = "model.diffusion_model.", "first_stage_model."  # prefixes of names in a single file
_INPUT = f"{UNET}input_blocks.0.0.weight"  # (channels, channels that the UNet reads, 3, 3)
# Single files that can be a base: the prefix of each part's names.
ARCHITECTURES: Mapping[str, Mapping[str, str]] = {
    "sdxl": {
        "unet": UNET,
        "vae": VAE,
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
    "sd2": {"unet": UNET, "vae": VAE, "text_encoder": "cond_stage_model.model."},
    "sd1": {"unet": UNET, "vae": VAE, "text_encoder": "cond_stage_model.transformer."},
}
IP_ADAPTER, WEIGHTS = "an IP-Adapter", "a file of weights"
# What another file is, by the names of its tensors; the first match counts.
_SPECIAL = (
    (re.compile(r"^ip_adapter\."), IP_ADAPTER),
    (re.compile(r"lora_|\.lora[._]|\.hada_|\.lokr_"), "a LoRA"),
    (re.compile(r"^control_model\.|^controlnet_"), "a ControlNet"),
    (re.compile(r"^edm_mean$"), "a single file of Playground 2.5, whose noise pmagic lacks"),
    (re.compile(r"^conditioner\.embedders\.0\.model\."), "a single file of the refiner of Stable Diffusion XL"),
    (re.compile(r"joint_blocks\."), "a single file of Stable Diffusion 3"),
    (re.compile(r"double_blocks\."), "a single file of FLUX"),
)
_PARTS = (  # in a file without the UNet of a single file
    (re.compile(r"^first_stage_model\.|^(?:encoder|decoder)\.(?:down|up|mid|conv_in)"), "an autoencoder alone"),
    (re.compile(r"^(?:down_blocks|up_blocks|mid_block)\."), "a UNet alone"),
    (re.compile(r"^text_model\."), "a text encoder alone"),
    (re.compile(r"^emb_params$|^<.*>$|^clip_[lg]$"), "a textual inversion"),
)


def architecture_of(path: Path) -> str:
    """ "sd1", "sd2" or "sdxl" for a whole single file of that architecture; "" for any other file."""
    if path.suffix.lower() != ".safetensors" or _cut(path):
        return ""
    shapes = shapes_of(path)
    if shapes.get(_INPUT, (0, 0))[1:2] != (4,) or _named(shapes):
        return ""
    prefixes = {name: each.values() for name, each in ARCHITECTURES.items()}
    return next((name for name, parts in prefixes.items() if all(_has(shapes, part) for part in parts)), "")


def file_kind(path: Path) -> str:
    """What a file is that is no base, by its header alone: "a LoRA", "a single file of FLUX", "a file of pickles"."""
    if not path.exists():
        return "a link to a file that is not there"
    if path.suffix.lower() == ".safetensors":
        return _safetensors_kind(path)
    for kind, endings in UNREAD.items():
        if path.suffix.lower() in endings:
            return f"a file of {kind}"
    return "a file"


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a safetensors file by its name; {} for any other file."""
    shapes = {name: entry.get("shape") for name, entry in _header(path).items() if isinstance(entry, dict)}
    return {name: tuple(shape) for name, shape in shapes.items() if isinstance(shape, list)}


def parameters_of(path: Path) -> dict[str, int]:
    """How many numbers each part of a whole single file has, by the part's name."""
    shapes, architecture = shapes_of(path), architecture_of(path)
    return {
        part: sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(prefix))
        for part, prefix in ARCHITECTURES[architecture].items()
    }


def _safetensors_kind(path: Path) -> str:
    shapes = shapes_of(path)
    if not shapes:
        return "not a safetensors file"
    kind = _cut(path) or _named(shapes)
    if kind:
        return kind
    if not _has(shapes, UNET):
        return WEIGHTS
    channels = shapes.get(_INPUT, (0, 4))[1:2]
    if channels == (9,):
        return "a single file of a Stable Diffusion for inpainting, whose UNet reads 9 channels instead of 4"
    if channels != (4,):
        return "a single file of a special Stable Diffusion, whose UNet does not read 4 channels"
    if not _has(shapes, VAE):
        return "a single file of Stable Diffusion without its autoencoder"
    return "a single file of Stable Diffusion without a text encoder that pmagic knows"


def _named(shapes: Mapping[str, object]) -> str:
    """What the names of tensors say that a file is; "" for nothing special, and for what may be a base."""
    known = _SPECIAL if _has(shapes, UNET) else (*_SPECIAL, *_PARTS)
    return next((kind for pattern, kind in known if any(pattern.search(name) for name in shapes)), "")


def _has(shapes: Mapping[str, object], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in shapes)


def _cut(path: Path) -> str:
    """How much of a safetensors file is there, if its end is missing; else ""."""
    ends = [entry.get("data_offsets") for entry in _header(path).values() if isinstance(entry, dict)]
    last = max((end[1] for end in ends if isinstance(end, list) and len(end) == 2 and type(end[1]) is int), default=0)
    try:
        with path.open("rb") as file:
            whole = 8 + int.from_bytes(file.read(8), "little") + last
        size = path.stat().st_size
    except OSError:
        return ""
    return f"a safetensors file that is cut: {size} of its {whole} bytes are there" if size < whole else ""


def _header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            table = json.loads(file.read(length)) if 2 <= length <= _MAX_HEADER else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}
