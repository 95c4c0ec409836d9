"""Configurations of models from outside, read by an allow-list: a folder cannot choose code to fetch or run.

transformers obeys keys such as `attn_implementation`, which may name a repository whose kernel it fetches, in a
config.json of any model. Here a configuration is made of the keys that its own class has, attention is pinned, and
nothing is looked up on a network.
"""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pmagic.errors import Incompatible

if TYPE_CHECKING:
    from transformers import PretrainedConfig

MAX_BYTES = 256 * 1024
ATTENTION = "sdpa"
_CODE = {"attn_implementation", "_attn_implementation", "quantization_config", "auto_map", "custom_pipelines"}
_NOTES = {"_class_name", "_diffusers_version", "_name_or_path", "_use_default_values"}  # diffusers' own, of the past
_OUTPUTS = {"output_attentions", "output_hidden_states", "return_dict"}  # what the callers here decide themselves


def read_config(folder: Path, kind: "type[PretrainedConfig]") -> "PretrainedConfig":
    """The configuration of a transformers model in `folder`, of the keys that `kind` has, with attention pinned.

    Raises Incompatible where config.json is no table of such values.
    """
    table = read_json(folder / "config.json")
    part = table.get(kind.base_config_key) if table.get("model_type") != kind.model_type else None
    table = part if isinstance(part, dict) else table  # a text encoder's folder may hold the whole CLIP's configuration
    try:
        config = kind(**_allowed(table, kind))
    except Exception as error:  # a constructor may raise anything for values from outside
        raise Incompatible(f"{folder / 'config.json'} cannot be used: {error}", "pull the model again") from error
    config._attn_implementation = ATTENTION
    return config


def require_plain(path: Path, kind: type) -> None:
    """Raises Incompatible where a diffusers class `kind` would find in its configuration what it has no argument for.

    Under such a key a number may stand, which names no code: old bases keep the settings of their average there.
    """
    known = inspect.signature(kind.__init__).parameters.keys() - _CODE | _NOTES
    table = read_json(path)
    wrong = [key for key in table if key not in known and not isinstance(table[key], int | float | None)]
    if wrong:
        raise Incompatible(
            f"{path} asks for {', '.join(wrong[:5])[:200]}, which is not read",
            "use the base without it: weights in float32, float16 or bfloat16",
        )


def read_json(path: Path) -> dict[str, Any]:
    """The table in a JSON file of at most 256 KB. Raises Incompatible for anything else."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        found = json.loads(data[:MAX_BYTES])
    except (OSError, ValueError, RecursionError) as error:
        raise Incompatible(f"{path} cannot be read: {error}", "pull the model again") from error
    if not isinstance(found, dict):
        raise Incompatible(f"{path} holds no table", "pull the model again")
    return found


def _allowed(table: Mapping[str, Any], kind: "type[PretrainedConfig]") -> dict[str, Any]:
    """The entries that the class has itself, those of its parts (text_config, vision_config) likewise."""
    own = kind().to_dict().keys() - _CODE - _OUTPUTS
    # A class property, which type checkers do not see through.
    parts = cast("Mapping[str, type[PretrainedConfig]]", kind.sub_configs)
    found = {}
    for key, value in table.items():
        if key in parts and isinstance(value, dict):
            found[key] = _allowed(value, parts[key])
        elif key in own and not key.startswith("_"):
            found[key] = value
    return found
