"""Estimates the memory that a base needs, before a long job, from its files' headers and without torch."""

import json
import math
from pathlib import Path

from pmagic.bases import file_kinds, kinds
from pmagic.bases.model_spec import ModelSpec, clip_folder, suggest_restore
from pmagic.errors import Incompatible

_FLOAT32, _HALF = 4, 2  # bytes
# Bytes kept for the backward pass of one sample, by (two bytes a number, gradient checkpointing). Measured in SD 1.4's
# shape, 64 x 64 latents and 320 channels (`python -m tests.bench memory --shape sd14`, and the same jobs by
# `peak --dtype float32`); other shapes are scaled by area and width.
_SAMPLE = {(True, False): 1.2e9, (True, True): 0.6e9, (False, False): 2.0e9, (False, True): 1.2e9}
_SAMPLE_AREA, _SAMPLE_CHANNELS = 64 * 64, 320
# The same in Stable Diffusion XL's shape, 128 x 128 latents. Not measured: what autograd keeps is counted on shapes
# (`python -m tests.bench.kept`), and the rest is SD 1.4's (measured less counted), scaled by the area.
_SAMPLE_XL = {(True, False): 7.0e9, (True, True): 2.2e9, (False, False): 12.4e9, (False, True): 4.4e9}
_SAMPLE_AREA_XL = 128 * 128
# The same for a face that is decoded for the identity loss: a picture of 512 x 512 pixels that is nearly all face, with
# 128 channels at the last level.
_FACE = {(True, False): 2.4e9, (True, True): 1.3e9, (False, False): 3.9e9, (False, True): 1.8e9}
_FACE_AREA, _FACE_CHANNELS = 512 * 512, 128
# Bytes that drawing needs besides the weights, by two bytes a number in the UNet: for each picture drawn at once in the
# UNet, with guidance, and for the decoding of one. In the same shape (`peak --job render`).
_PICTURE = {True: 0.2e9, False: 0.5e9}
_DECODED = 1.2e9
DECODED_AT_ONCE = 512 * 512  # pixels; what is kept of more faces at once would be most of a learning's memory
# A trained number is kept in float32 beside the base's own, with its gradient and AdamW's two moments.
_TRAINED = 4 * _FLOAT32
_MAX_HEADER = 16 * 1024**2
_LARGEST = 10**7  # of one dimension
_LEVELS = 16  # of a network, at most
_TEXT_MODEL = "text_model."  # before the names of a text encoder's weights


def memory_to_learn(
    spec: ModelSpec,
    batch: int,
    *,
    trained: int = 0,
    half: bool = False,
    low: bool = False,
    decodes: bool = False,
    texts: int = 1,
) -> int:
    """Bytes, roughly: the weights, what `batch` samples keep for the backward pass, and what training itself keeps.

    trained: how many numbers the method trains (its `count_weights`).
    half: with the UNet and the decoded faces in two bytes a number instead of four. low: with each block computed again
    (engine.memory). decodes: with a loss that looks at the face, here a large one. texts: encoded for each sample.
    """
    assert spec.folder is not None  # only called for a base whose weights are here
    side, channels, _ = _shape(spec.folder / "unet" / "config.json")
    large = kinds.architecture_of(spec.folder) is kinds.SDXL
    sample, area = (_SAMPLE_XL, _SAMPLE_AREA_XL) if large else (_SAMPLE, _SAMPLE_AREA)
    kept = batch * sample[half, low] * side**2 / area * channels / _SAMPLE_CHANNELS
    if decodes:
        _, width, levels = _shape(spec.folder / "vae" / "config.json")
        face = (side * 2 ** (levels - 1)) ** 2
        together = max(face, min(batch * face, DECODED_AT_ONCE))
        kept += _FACE[half, low] * together / _FACE_AREA * width / _FACE_CHANNELS
    if texts > 1:
        kept += batch * (texts - 1) * _text_bytes(spec)
    weights = sum(
        count * (_HALF if half and part == "unet" else _FLOAT32) for part, count in parameters_by_part(spec).items()
    )
    return weights + int(kept) + _TRAINED * trained


def text_widths(spec: ModelSpec) -> tuple[int, ...]:
    """How many numbers a token embedding of each of the base's text encoders has. Raises Incompatible."""
    assert spec.folder is not None  # as above
    encoders = [part for part in kinds.architecture_of(spec.folder).parts if part.startswith("text_encoder")]
    return tuple(_width(spec.folder / part / "config.json", "hidden_size") for part in encoders)


def _text_bytes(spec: ModelSpec) -> int:
    """Bytes that the text encoder keeps for the backward pass of one text, in float32.

    For each position, a layer keeps 6.5 times its width and twice its inner width (counted in what torch saves).
    """
    assert spec.folder is not None  # as above
    configuration = spec.folder / "text_encoder" / "config.json"
    keys = ("max_position_embeddings", "num_hidden_layers", "hidden_size", "intermediate_size")
    positions, layers, width, inner = (_width(configuration, key) for key in keys)
    return int(_FLOAT32 * positions * layers * (6.5 * width + 2 * inner))


def memory_to_draw(spec: ModelSpec, pictures: int, size: tuple[int, int], *, half: bool = False) -> int:
    """Bytes, roughly, that `pictures` drawn at once need besides the weights. They are decoded one by one.

    size: width and height in pixels. half: with the UNet in two bytes a number instead of four.
    """
    assert spec.folder is not None  # as above
    _, channels, _ = _shape(spec.folder / "unet" / "config.json")
    _, width, _ = _shape(spec.folder / "vae" / "config.json")
    area = size[0] * size[1] / _FACE_AREA
    drawn = pictures * _PICTURE[half] * area * channels / _SAMPLE_CHANNELS
    return int(max(drawn, _DECODED * area * width / _FACE_CHANNELS))


def text_width(spec: ModelSpec) -> int:
    """How many numbers the token embeddings of the base have together. Raises Incompatible."""
    return sum(text_widths(spec))


def image_width(spec: ModelSpec) -> int:
    """How many numbers the base's CLIP makes of a photo. Raises WeightsMissing or Incompatible."""
    return _width(clip_folder(spec) / "config.json", "projection_dim")


def count_cross_attentions(spec: ModelSpec) -> int:
    """How many cross-attentions the base's UNet has. Raises Incompatible for a file that is not safetensors."""
    return sum(name.endswith("attn2.to_k.weight") for name in unet_shapes(spec))


def _width(configuration: Path, key: str) -> int:
    try:
        return _count(json.loads(configuration.read_text())[key])
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise Incompatible(
            f"{configuration} cannot be used: {error}", "restore the file, or pull the base again"
        ) from error


def _shape(configuration: Path) -> tuple[int, int, int]:
    """A network's sample_size, the channels of its first level, and how many levels it has."""
    try:
        table = json.loads(configuration.read_text())
        widths = table["block_out_channels"]
        return _count(table["sample_size"]), _count(widths[0]), min(len(widths), _LEVELS)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, IndexError) as error:
        raise Incompatible(
            f"{configuration} cannot be used: {error}", suggest_restore(configuration.parent.parent)
        ) from error


def memory_free() -> int | None:
    """Bytes of memory that are available to a program; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(values[0]) * 1024 if values else None


def parameters_by_part(spec: ModelSpec) -> dict[str, int]:
    """How many numbers the base's weight files hold, by part; a part kept in two precisions counts once."""
    assert spec.folder is not None  # asked only of a base whose weights are here
    if spec.file is not None:
        return file_kinds.parameters_of(spec.file)
    return {part: _parameters_of(spec.folder / part) for part in kinds.architecture_of(spec.folder).parts}


def _parameters_of(part: Path) -> int:
    return max(_counts(part), default=0)


def _counts(part: Path) -> list[int]:
    """How many numbers a part's files hold, by precision: the shards of one set are added up."""
    sums: dict[bool, int] = {}
    for path in part.glob("*.safetensors"):
        if path.is_file():  # a link to nothing, a folder
            half = ".fp16" in path.name
            sums[half] = sums.get(half, 0) + _numbers(path)
    return list(sums.values())


def unet_shapes(spec: "ModelSpec") -> dict[str, tuple[int, ...]]:
    """The shape of each of the UNet's weights by name, from the headers of its files; of one precision alone.

    Raises Incompatible for a file that is not safetensors.
    """
    if spec.file is not None:
        from pmagic.bases import single_file  # imports torch

        assert spec.folder is not None  # its configurations
        return single_file.unet_shapes(spec.folder)
    return _part_shapes(spec, "unet")


def text_shapes(spec: "ModelSpec") -> dict[str, tuple[int, ...]]:
    """As `unet_shapes`, of the text encoder, by the names below its `text_model`."""
    if spec.file is not None:
        names = file_kinds.shapes_of(spec.file).items()
        return {name.partition(_TEXT_MODEL)[2]: shape for name, shape in names if _TEXT_MODEL in name}
    return {name.removeprefix(_TEXT_MODEL): shape for name, shape in _part_shapes(spec, "text_encoder").items()}


def _part_shapes(spec: "ModelSpec", part: str) -> dict[str, tuple[int, ...]]:
    assert spec.folder is not None  # asked only of a base whose weights are here
    files = sorted(path for path in (spec.folder / part).glob("*.safetensors") if path.is_file())
    whole = [path for path in files if ".fp16" not in path.name]
    return {name: shape for path in whole or files for name, shape in _shapes(path).items()}


def _numbers(path: Path) -> int:
    return sum(math.prod(shape) for shape in _shapes(path).values())


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _MAX_HEADER:
                raise Incompatible(
                    f"{path} is not a safetensors file{_pointer(path)}", suggest_restore(path.parent.parent)
                )
            header = json.loads(file.read(length))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return {name: tuple(map(_count, entry["shape"])) for name, entry in entries.items()}
    except OSError as error:
        raise Incompatible(f"{path} cannot be read: {error.strerror}", "correct its permissions") from error
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise Incompatible(
            f"{path} is not a safetensors file: {error!r}", suggest_restore(path.parent.parent)
        ) from error


def _pointer(path: Path) -> str:
    """An explanation for a file that is only the pointer of a repository cloned without Git LFS; else ""."""
    with path.open("rb") as file:
        return (
            ": it is a Git LFS pointer, fetch its content with `git lfs pull`"
            if file.read(12) == b"version http"
            else ""
        )


def _count(value: object) -> int:
    """The value as a side, a width or a dimension of weights. Raises ValueError for any other value."""
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise ValueError(f"{str(value)[:80]} is not a whole number of 0 to {_LARGEST}")
    return value
