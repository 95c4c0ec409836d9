"""Reads configurations of models from outside by an allow-list, so that a folder cannot choose code to fetch or run.

transformers obeys keys such as `attn_implementation` in the config.json of any model, and that key may name a
repository whose kernel it fetches. Here a configuration takes only the keys of its own class, attention is pinned, and
no network is used.
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
_NOTES = {"_class_name", "_diffusers_version", "_name_or_path", "_use_default_values"}  # written by diffusers itself
_OUTPUTS = {"output_attentions", "output_hidden_states", "return_dict"}  # pmagic's own calls decide these


def read_config(folder: Path, kind: "type[PretrainedConfig]") -> "PretrainedConfig":
    """The configuration of a transformers model in `folder`, with only the keys of `kind`, and attention pinned.

    Raises Incompatible for a config.json that does not hold such values.
    """
    table = read_json(folder / "config.json")
    part = table.get(kind.base_config_key) if table.get("model_type") != kind.model_type else None
    table = part if isinstance(part, dict) else table  # a text encoder's folder may hold the whole CLIP's configuration
    try:
        config = kind(**_select_allowed(table, kind))
    except Exception as error:  # a constructor may raise anything for values from outside
        raise Incompatible(f"{folder / 'config.json'} cannot be used: {error}", "pull the model again") from error
    config._attn_implementation = ATTENTION
    return config


def require_plain(path: Path, kind: type) -> None:
    """Raises Incompatible for a configuration with keys that the diffusers class `kind` has no argument for.

    Such a key may hold a number, which cannot name code: old bases keep the settings of their average there.
    """
    known = inspect.signature(kind.__init__).parameters.keys() - _CODE | _NOTES
    table = read_json(path)
    unknown = [key for key in table if key not in known and not isinstance(table[key], int | float | None)]
    if unknown:
        raise Incompatible(
            f"{path} has the keys {', '.join(unknown[:5])[:200]}, which pmagic does not support",
            "use a base without them: weights in float32, float16 or bfloat16",
        )


def read_json(path: Path) -> dict[str, Any]:
    """The table in a JSON file of at most 256 KB. Raises Incompatible for anything else."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        table = json.loads(data[:MAX_BYTES])
    except (OSError, ValueError, RecursionError) as error:
        raise Incompatible(f"{path} cannot be read: {error}", "pull the model again") from error
    if not isinstance(table, dict):
        raise Incompatible(f"{path} is not a JSON object", "pull the model again")
    return table


def _select_allowed(table: Mapping[str, Any], kind: "type[PretrainedConfig]") -> dict[str, Any]:
    """The entries whose keys the class has; those of its parts (text_config, vision_config) likewise."""
    own = kind().to_dict().keys() - _CODE - _OUTPUTS
    # A class property, which type checkers do not see through.
    parts = cast("Mapping[str, type[PretrainedConfig]]", kind.sub_configs)
    entries: dict[str, Any] = {}
    for key, value in table.items():
        if key in parts and isinstance(value, dict):
            entries[key] = _select_allowed(value, parts[key])
        elif key in own and not key.startswith("_"):
            entries[key] = value
    return entries
