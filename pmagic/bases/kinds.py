"""Recognises folders and repositories of models by their file names and index. It opens no weights.

The same rules apply to a local folder and, before a download, to a repository's list of files.
"""

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pmagic.bases.file_kinds import UNREAD, WEIGHT_ENDINGS, file_kind
from pmagic.errors import Incompatible

INDEX = "model_index.json"
PARTS = ("unet", "vae", "text_encoder")  # each must hold weights; the tokenizer and the scheduler hold only texts
HALF = "fp16"  # the one variant that is read


@dataclass(frozen=True)
class Architecture:
    """A family of bases: the parts of its folders that hold weights, and the folders of its tokenizers."""

    parts: tuple[str, ...]
    tokenizers: tuple[str, ...]


SD = Architecture(PARTS, ("tokenizer",))
SDXL = Architecture((*PARTS, "text_encoder_2"), ("tokenizer", "tokenizer_2"))
_ARCHITECTURES = {
    "StableDiffusionPipeline": SD,
    "StableDiffusionImg2ImgPipeline": SD,  # it has the same parts
    "StableDiffusionXLPipeline": SDXL,
}
# Common names of other pipelines, by the beginning of their class name; the first match counts.
_OTHERS = (
    ("StableDiffusionXLInpaint", "a Stable Diffusion XL for inpainting"),
    ("StableDiffusionXLImg2Img", "the refiner of Stable Diffusion XL, or another model that only changes pictures"),
    ("StableDiffusionXL", "a special Stable Diffusion XL"),
    ("StableDiffusion3", "Stable Diffusion 3"),
    ("StableDiffusionInpaint", "a Stable Diffusion for inpainting"),
    ("StableCascade", "Stable Cascade"),
    ("Flux", "FLUX"),
    ("PixArt", "PixArt"),
    ("Sana", "Sana"),
    ("Kandinsky", "Kandinsky"),
    ("Wuerstchen", "Wuerstchen"),
    ("Onnx", "Stable Diffusion as ONNX"),
    ("ORT", "Stable Diffusion as ONNX"),
    ("OV", "Stable Diffusion as OpenVINO"),
    ("Flax", "Stable Diffusion for Flax"),
)
_LIBRARIES = ("diffusers", "transformers", "stable_diffusion")  # that a component may come from
_MAX_INDEX = 1024**2


def require_stable_diffusion(index: bytes, place: str) -> Architecture:
    """The architecture of a Stable Diffusion 1.x, 2.x or XL by its model_index.json, with parts of known libraries.

    place: the folder or repository, as messages call it. Raises Incompatible for any other model.
    """
    table = _parse_index(index, place)
    kind = table.get("_class_name")
    if not isinstance(kind, str):
        raise Incompatible(
            f"{place} does not say which pipeline it is: its {INDEX} has no _class_name",
            "restore the file, or use another base: `pmagic models list` shows those with a short name",
        )
    if kind not in _ARCHITECTURES:
        name = next((name for beginning, name in _OTHERS if kind.startswith(beginning)), "another kind of model")
        raise Incompatible(
            f"{place} is {name} ({kind}); pmagic learns on Stable Diffusion 1.x, 2.x and XL",
            "use another base: `pmagic models list` shows those with a short name",
        )
    for part, source in table.items():
        if isinstance(source, list) and source and source[0] not in (None, *_LIBRARIES):
            raise Incompatible(
                f"{place} takes its {part} from {str(source[0])[:80]!r}, which is none of {', '.join(_LIBRARIES)}",
                "use another base: `pmagic models list` shows those with a short name",
            )
    return _ARCHITECTURES[kind]


def architecture_of(folder: Path) -> Architecture:
    """The architecture of a base's folder. Raises Incompatible for another kind of model."""
    return require_stable_diffusion(read_index(folder), str(folder))


def zeros_for_empty(folder: Path) -> bool:
    """Whether a base of two text encoders reads zeros in place of an empty negative prompt, by its model_index.json."""
    return bool(_parse_index(read_index(folder), str(folder)).get("force_zeros_for_empty_prompt", True))


def require_four_channels(folder: Path, place: str) -> None:
    """Incompatible for a UNet of inpainting; a configuration that cannot be read is reported when it is opened."""
    try:
        with (folder / "unet" / "config.json").open("rb") as file:
            table = json.loads(file.read(_MAX_INDEX))
    except (OSError, ValueError, RecursionError):
        return
    if isinstance(table, dict) and table.get("in_channels") == 9:
        raise Incompatible(
            f"{place} is a Stable Diffusion for inpainting: its UNet reads 9 channels instead of 4",
            "use another base; pmagic edits backgrounds with any base that is not for inpainting",
        )


def read_index(folder: Path) -> bytes:
    """A folder's model_index.json; Incompatible where it cannot be read."""
    try:
        with (folder / INDEX).open("rb") as file:
            return file.read(_MAX_INDEX + 1)
    except OSError as error:
        raise Incompatible(f"{folder / INDEX} cannot be read: {error.strerror}", "restore the file") from error


def stem_of(part: str) -> str:
    """The name of a part's weight file, without ending."""
    return "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"


def variant_of(names: Collection[str], part: str) -> str | None:
    """The variant of a part's weights to read: None for the plain files, which are preferred, or `HALF`.

    names: of the files in the part's folder. Call it only where `lack` returns "".
    """
    return None if _is_complete(names, stem_of(part), None) else HALF


def weight_files(names: Collection[str], part: str, *, half: bool = False) -> list[str]:
    """The files that hold a part's weights, with their index. Call it only where `lack` returns "".

    half: prefer the variant `HALF` to the plain files.
    """
    stem = stem_of(part)
    variant = HALF if half and _is_complete(names, stem, HALF) else variant_of(names, part)
    full_stem, index = _full_stem(stem, variant), _index(stem, variant)
    if f"{full_stem}.safetensors" in names:
        return [f"{full_stem}.safetensors"]
    return sorted([index, *(name for name in names if re.fullmatch(_shard(full_stem), name))])


def lack(names: Collection[str], part: str) -> str:
    """Why a part's weights cannot be read, for a message; "" if they can. names: of the files in the part's folder."""
    stem = stem_of(part)
    if _is_complete(names, stem, None) or _is_complete(names, stem, HALF):
        return ""
    weights = sorted(name for name in names if name.endswith(".safetensors"))
    shards = [name for name in weights if re.search(r"-\d{5}-of-\d{5}", name)]
    missing = sorted({each for name in shards for each in _siblings(name)} - set(names))
    if missing:
        return f"{missing[0]} is missing" + f", and {len(missing) - 1} more shards" * (len(missing) > 1)
    variants = {match[1] for name in weights if (match := re.fullmatch(rf"{stem}\.(\w+)(-.*)?\.safetensors", name))}
    if variants - {HALF}:
        return f"only weights in the variant {', '.join(sorted(variants))}; pmagic reads plain ones, or {HALF}"
    if shards:
        return f"{len(shards)} shards without their index"
    if weights:
        return f"{weights[0]}, but no {stem}.safetensors"
    for kind, endings in UNREAD.items():
        others = sorted(name for name in names if name.endswith(endings))
        if others:
            return f"only weights as {kind} ({others[0]}); pmagic reads safetensors"
    return f"{stem}.safetensors is missing"


def lacks_of(folder: Path, parts: Sequence[str] = PARTS) -> str:
    """`lacks` of a local folder; broken links and files that cannot be read count as missing."""
    return lacks({part: _lack_in(folder / part, part) for part in parts})


def lacks(reasons: Mapping[str, str]) -> str:
    """What the parts lack, as one text; parts with the same reason stand together. "" where nothing is missing."""
    parts: dict[str, list[str]] = {}
    for part, why in reasons.items():
        if why:
            parts.setdefault(why, []).append(part)
    return "; ".join(f"{', '.join(each)}: {why}" for why, each in parts.items())


def _lack_in(folder: Path, part: str) -> str:
    try:
        entries = list(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        return f"the folder cannot be read: {error.strerror}"
    reason = lack([each.name for each in entries if each.is_file()], part)
    broken = [each for each in entries if each.suffix == ".safetensors" and not each.is_file()]
    if reason and broken:
        why = "a link to a file that is not there" if broken[0].is_symlink() else "not a file"
        return f"{broken[0].name} is {why}"
    return reason


def folder_kind(folder: Path) -> str:
    """What a folder without a usable model_index.json holds instead, for a message."""
    index = folder / INDEX
    if os.path.lexists(index):
        why = "a link to a file that is not there" if index.is_symlink() else "not a file"
        return f"its {INDEX} is {why}"
    try:
        names = sorted(each.name for each in folder.iterdir())
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    if "config.json" in names and any(name.endswith(WEIGHT_ENDINGS) for name in names):
        return f"it has no {INDEX}, it is one part of a model (config.json and weights)"
    single = next((name for name in names if name.endswith(WEIGHT_ENDINGS)), "")
    if single:
        return f"it has no {INDEX}; in it is {single}, {file_kind(folder / single)}"
    return f"it has no {INDEX}"


def _is_complete(names: Collection[str], stem: str, variant: str | None) -> bool:
    """Whether the weights are complete: in one file, or in shards with their index."""
    full_stem = _full_stem(stem, variant)
    if f"{full_stem}.safetensors" in names:
        return True
    shards = [name for name in names if re.fullmatch(_shard(full_stem), name)]
    return _index(stem, variant) in names and bool(shards) and set(_siblings(shards[0])) <= set(names)


def _full_stem(stem: str, variant: str | None) -> str:
    return f"{stem}.{variant}" if variant else stem


def _index(stem: str, variant: str | None) -> str:
    """The name of the file that says which shard holds which weights."""
    return f"{stem}.safetensors.index.{variant}.json" if variant else f"{stem}.safetensors.index.json"


def _shard(full_stem: str) -> str:
    return rf"{re.escape(full_stem)}-\d{{5}}-of-\d{{5}}\.safetensors"


def _siblings(shard: str) -> list[str]:
    """The names of all shards of a set, from the name of one."""
    match = re.search(r"-\d{5}-of-(\d{5})", shard)
    assert match is not None  # only called with shards
    count = min(int(match[1]), 1000)
    return [f"{shard[: match.start()]}-{k:05}-of-{match[1]}{shard[match.end() :]}" for k in range(1, count + 1)]


def _parse_index(index: bytes, place: str) -> Mapping[str, Any]:
    try:
        if len(index) > _MAX_INDEX:
            raise ValueError(f"it is larger than {_MAX_INDEX} bytes")
        table = json.loads(index)
        if not isinstance(table, dict):
            raise ValueError("it is not a JSON object")
    except (ValueError, RecursionError) as error:
        raise Incompatible(f"{place}: its {INDEX} cannot be used: {str(error)[:200]}", "restore the file") from error
    return table
