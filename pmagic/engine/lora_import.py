"""Importing: the factors of a LoRA file of kohya's programs, diffusers or peft as differences of a base's weights.

The names of the programs are translated by diffusers' own converters. A file that holds anything that these differences
cannot express is refused by name, because without it the pictures would be others.
"""

# o, i output and input features of a weight . r rank . k side of a kernel

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pmagic.bases import memory_estimate, model_config
from pmagic.bases.model_spec import ModelSpec
from pmagic.engine.reweighting import DOWN, PREFIX, TEXT_PREFIX, UP
from pmagic.errors import Incompatible
from pmagic.library.lora_file import LoraFile

# What else such files hold, by a part of a tensor's name.
_OTHER_KINDS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_w": "LoHa",
    "lokr_": "LoKr",
    "lora_mid": "LoCon with Tucker decomposition",
    "oft_": "OFT",
    "boft_": "BOFT",
    "on_input": "IA3",
    "vera_lambda": "VeRA",
    ".diff": "a whole difference",
    ".w_norm": "trained norms",
    ".b_norm": "trained norms",
    "lora_te2_": "LoRA for SDXL",
    "text_encoder_2.": "LoRA for SDXL",
    "lora_transformer": "LoRA for a transformer, not a UNet",
    "transformer.": "LoRA for a transformer, not a UNet",
    "diffusion_model.": "LoRA for another architecture",
}
# Tensors that a base of Stable Diffusion does not read, or that are no difference of a weight.
_LEFT_OUT = {
    "bundle_emb.": "an embedding for a word",
    "lora_te_text_projection": "the text encoder's projection, which Stable Diffusion does not use",
    "text_encoder.text_projection": "the text encoder's projection, which Stable Diffusion does not use",
}
_UPS = (".lora_up.weight", ".lora_B.weight", ".lora.up.weight", "_lora.up.weight", ".lora_linear_layer.up.weight")
_WRAPPED = "base_model.model."  # before names that peft itself has written; its alpha is in another file
_UNET, _TEXT = "unet.", "text_encoder."
_MADE_FOR = ("ss_base_model_version", "modelspec.architecture", "ss_sd_model_name")  # in the metadata
TRIGGER = "modelspec.trigger_phrase"  # in the metadata: the words that call the LoRA up
_WORDS = 5  # of the file that a message proposes


@dataclass(frozen=True)
class Imported:
    """tensors: a persona's. kind: the naming of the file. left_out: what of it is not in `tensors`, in words."""

    tensors: Mapping[str, np.ndarray]
    kind: str
    left_out: tuple[str, ...]


def import_lora(file: LoraFile, spec: ModelSpec, adapter: Mapping[str, Any] | None = None) -> Imported:
    """The differences that the file holds for the weights of this base. A missing alpha means a factor of 1.

    adapter: peft's configuration from adapter_config.json beside the file, None if there is none.
    Raises Incompatible for another kind of file, and for weights that the base does not have.
    """
    left_out = {name: why for name in file.tensors for part, why in _LEFT_OUT.items() if name.startswith(part)}
    found = {name: array for name, array in file.tensors.items() if name not in left_out}
    _require_lora(found)
    kind, stated = "kohya" if all(name.startswith("lora_") for name in found) else "diffusers", _adapter(file.metadata)
    if all(name.startswith(_WRAPPED) for name in found):
        if adapter is None:
            raise Incompatible(
                "the file was written by peft alone, whose strength (alpha) stands in adapter_config.json",
                "put that file into the same folder",
            )
        kind, stated = "peft", {f"{_UNET}{key}": value for key, value in adapter.items()}
        found = {_UNET + name.removeprefix(_WRAPPED): array for name, array in found.items()}
    factors = _paired(_converted(_scaled_by_alpha(found), _layers_per_block(spec)))
    shapes = {_UNET: memory_estimate.unet_shapes(spec), _TEXT: memory_estimate.text_shapes(spec)}
    tensors: dict[str, np.ndarray] = {}
    for full, (up, down) in factors.items():
        part = _UNET if full.startswith(_UNET) else _TEXT
        name = full.removeprefix(part)
        weight = f"{name.removeprefix('text_model.') if part == _TEXT else name}.weight"
        _require_fit(file, spec, full, shapes[part].get(weight), up, down)
        prefix = PREFIX if part == _UNET else TEXT_PREFIX
        up = up.flatten(1).numpy() * np.float32(_stated_scale(stated, part, name, up.shape[1]))
        tensors[f"{prefix}{weight}{UP}"] = _shortest(up)
        tensors[f"{prefix}{weight}{DOWN}"] = _shortest(down.flatten(1).numpy())
    counted = {why: sum(each == why for each in left_out.values()) for why in dict.fromkeys(left_out.values())}
    return Imported(tensors, kind, tuple(f"{why} ({count} tensors)" for why, count in counted.items()))


def trigger_words(metadata: Mapping[str, str]) -> list[str]:
    """What the file's own metadata say of the words that call it up, the likeliest first; often nothing."""
    words = [metadata[TRIGGER]] if TRIGGER in metadata else []
    counts: dict[str, int] = {}
    tables = _parsed(metadata.get("ss_tag_frequency", ""))
    for table in tables.values():
        for tag, count in table.items() if isinstance(table, dict) else ():
            if type(count) is int:
                counts[tag.strip()] = counts.get(tag.strip(), 0) + count
    words += sorted(counts, key=lambda tag: -counts[tag])
    return [word for word in dict.fromkeys(words) if 0 < len(word) <= 60][:_WORDS]


def _require_lora(found: Mapping[str, np.ndarray]) -> None:
    for part, kind in _OTHER_KINDS.items():
        name = next((name for name in found if part in name), None)
        if name is not None:
            raise Incompatible(
                f"the file holds {kind} ({name!r}), and pmagic reads only LoRA for Stable Diffusion: two factors for "
                "each weight",
                "use a LoRA of the same subject for this base",
                kept="nothing was imported",
            )
    if not any("lora" in name for name in found):
        raise Incompatible(
            f"the file is no LoRA: it holds {next(iter(found), 'nothing')!r}",
            "a whole model is used as a base: give its diffusers folder with --base",
        )


def _scaled_by_alpha(found: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The factors without their alphas: each `up` times alpha / r in float32, as every program for drawing does it."""
    factors = {name: torch.from_numpy(array).float() for name, array in found.items() if not name.endswith(".alpha")}
    for name in found.keys() - factors.keys():
        module = name.removesuffix(".alpha").removesuffix(".lora.down.weight")
        up = next((module + each for each in _UPS if module + each in factors), None)
        if up is None or found[name].size != 1 or factors[up].ndim < 2:
            raise _unreadable(f"{name!r} belongs to no factor")
        factors[up] = factors[up] * (float(found[name].reshape(())) / factors[up].shape[1])
    return factors


def _converted(factors: Mapping[str, Tensor], layers_per_block: int) -> dict[str, Tensor]:
    """The same tensors by diffusers' names: unet.NAME.lora_A.weight, and text_encoder.NAME.lora_B.weight."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin
    from diffusers.utils import state_dict_utils

    config = SimpleNamespace(layers_per_block=layers_per_block)
    try:
        state = StableDiffusionLoraLoaderMixin.lora_state_dict(dict(factors), unet_config=config)[0]
        if not any(name.startswith((_UNET, _TEXT)) for name in state):
            state = {_UNET + name: tensor for name, tensor in state.items()}  # the UNet's alone, of early programs
        unet = {name: tensor for name, tensor in state.items() if name.startswith(_UNET)}
        text = {name: tensor for name, tensor in state.items() if not name.startswith(_UNET)}
        unet = state_dict_utils.convert_unet_state_dict_to_peft(unet)
        if text:
            text = state_dict_utils.convert_state_dict_to_peft(state_dict_utils.convert_state_dict_to_diffusers(text))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _unreadable(f"diffusers does not know its names: {str(error).strip()[:200]}") from error
    converted = {**unet, **text}
    if len(converted) != len(factors):  # the converters drop what they take for a copy
        raise _unreadable(f"of its {len(factors)} tensors, diffusers reads {len(converted)}")
    return converted


def _paired(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """(up, down) by the module's full name."""
    up_end, down_end = ".lora_B.weight", ".lora_A.weight"
    for name, tensor in tensors.items():
        if not name.startswith((_UNET, _TEXT)) or not name.endswith((up_end, down_end)):
            raise _unreadable(f"{name!r} is not a factor of a weight")
        module = name.removesuffix(up_end).removesuffix(down_end)
        if not {module + up_end, module + down_end} <= tensors.keys() or tensor.ndim < 2:
            raise _unreadable(f"{name!r} has no partner")
    modules = [name.removesuffix(up_end) for name in tensors if name.endswith(up_end)]
    return {name: (tensors[name + up_end], tensors[name + down_end]) for name in modules}


def _require_fit(
    file: LoraFile, spec: ModelSpec, name: str, shape: tuple[int, ...] | None, up: Tensor, down: Tensor
) -> None:
    """Raises Incompatible unless up (o, r) and down (r, i k k) are factors of a weight of this shape."""
    rank = up.shape[1]
    fits = (
        shape is not None
        and up.numel() == shape[0] * rank
        and down.shape[0] == rank
        and (tuple(down.shape[1:]) == tuple(shape[1:]) or down.numel() == rank * math.prod(shape[1:]))
    )
    if not fits:
        there = "has no such weight" if shape is None else f"has {list(shape)} there"
        made_for = next(filter(None, map(file.metadata.get, _MADE_FOR)), None)
        said = f"; the file says that it was made for {made_for[:80]!r}" if made_for else ""
        raise Incompatible(
            f"the LoRA changes {name} by factors of {list(up.shape)} and {list(down.shape)}, and the base {spec.title} "
            f"{there}{said}",
            "give the base that it was made for with --base",
            kept="nothing was imported",
        )


def _stated_scale(stated: Mapping[str, Any], part: str, name: str, rank: int) -> float:
    """alpha / r as the configuration of peft states it, 1 if it states nothing."""
    alpha = stated.get(f"{part}lora_alpha")
    patterns = stated.get(f"{part}alpha_pattern") or {}
    if stated.get(f"{part}use_dora"):
        raise Incompatible("the file holds DoRA, and pmagic reads only LoRA", "use a LoRA of the same subject")
    if isinstance(patterns, dict):
        # peft takes these for regular expressions; diffusers and peft write module names, some of them after a ^.
        own = (each for key, each in patterns.items() if f".{name}".endswith("." + str(key).removeprefix("^")))
        alpha = next(own, alpha)
    if alpha is None:
        return 1.0
    if not isinstance(alpha, int | float) or not math.isfinite(alpha) or not isinstance(patterns, dict):
        raise _unreadable("its lora_alpha is not a number")
    return alpha / (math.sqrt(rank) if stated.get(f"{part}use_rslora") else rank)


def _adapter(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The configuration that diffusers writes into the header, with `unet.` or `text_encoder.` before each key."""
    text = metadata.get("lora_adapter_metadata", "")
    table = _parsed(text)
    if text and not table:
        raise _unreadable("its lora_adapter_metadata, which has its strength, does not parse")
    return table


def _parsed(text: str) -> dict[str, Any]:
    try:
        table = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}


def _layers_per_block(spec: ModelSpec) -> int:
    """Of the UNet, by which diffusers counts the blocks of files with the names of Stable Diffusion's first code."""
    path = spec.local_folder / "unet" / "config.json"
    layers = model_config.read_json(path).get("layers_per_block")
    if type(layers) is not int:
        raise Incompatible(f"{path} does not say layers_per_block", "use another base")
    return layers


def _shortest(values: np.ndarray) -> np.ndarray:
    """The values in float16 if that loses nothing, else in float32."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), values) else np.ascontiguousarray(values, np.float32)


def _unreadable(why: str) -> Incompatible:
    return Incompatible(
        f"the file is not a LoRA as pmagic reads it: {why}", "use another file of the same LoRA", "nothing was imported"
    )
