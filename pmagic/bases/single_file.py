"""Opens the parts of a base from one safetensors file in the layout of Stable Diffusion's first authors.

The names are translated by diffusers' own functions. Configurations are local: nothing is fetched.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from pmagic.bases import file_kinds, model_config
from pmagic.errors import Incompatible

_PADDING = {("sd2", "tokenizer"): "!", ("sdxl", "tokenizer_2"): "!"}
OpenPart = Callable[[Path, str, torch.dtype], Any]


def opener(file: Path) -> OpenPart:
    """A function that opens one part of the file, complete or refused: (configurations' folder, part, type)."""
    return lambda folder, part, dtype: _open(file, folder, part, dtype)


def padding_of(file: Path, tokenizer: str) -> str:
    """The token that fills the text in one of the file's tokenizers; "" for the end token, as in SD 1.x.

    It is not read from the configurations: those of the published bases name another one, which nothing uses.
    """
    return _PADDING.get((file_kinds.architecture_of(file), tokenizer), "")


def noise_of(file: Path) -> dict[str, Any]:
    """What the file itself says of its noise schedule: fine-tunes that predict velocity may have a tensor `v_pred`."""
    names = file_kinds.shapes_of(file)
    velocity = {"prediction_type": "v_prediction"} if "v_pred" in names else {}
    return {**velocity, **({"rescale_betas_zero_snr": True} if "ztsnr" in names else {})}


def unet_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the UNet's weights by diffusers' names, from the file's configurations in `folder`."""
    return {name: tuple(each.shape) for name, each in _empty(folder / "unet").state_dict().items()}


def _open(file: Path, folder: Path, part: str, dtype: torch.dtype) -> Any:
    """Raises Incompatible for weights of another shape, or for a part that is not complete."""
    prefix = file_kinds.ARCHITECTURES[file_kinds.architecture_of(file)][part]
    try:
        model, weights = _translated(_read(file, prefix), folder / part, prefix)
        lacking, _ = model.load_state_dict(weights, strict=False, assign=True)
    except (OSError, ValueError, RuntimeError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise Incompatible(
            f"the {part} in {file} cannot be opened: {_in_short(error)}",
            f"if the file is another shape of Stable Diffusion, put its configurations into a folder "
            f"{file.stem!r} beside it",
        ) from error
    missing = [name for name in lacking if not name.endswith("position_ids")]
    if missing:
        raise Incompatible(
            f"the {part} in {file} lacks {len(missing)} weights ({missing[0]}, ...), which would be random",
            "get the file again",
        )
    return model.to(dtype)


def _translated(weights: dict[str, Tensor], folder: Path, prefix: str) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """The empty model of a part, and the file's weights under its names."""
    import transformers
    from diffusers.loaders import single_file_utils as names

    if folder.name in ("unet", "vae"):
        model = _empty(folder)
        translate = names.convert_ldm_unet_checkpoint if folder.name == "unet" else names.convert_ldm_vae_checkpoint
        return model, translate(weights, config=dict(model.config))
    config = model_config.read_config(folder, transformers.CLIPTextConfig)
    pooled = folder.name == "text_encoder_2"
    kind = transformers.CLIPTextModelWithProjection if pooled else transformers.CLIPTextModel
    model = cast(Any, kind)(config)
    if prefix.endswith("model."):  # the names of another library, OpenCLIP
        found = names.convert_open_clip_checkpoint(model, weights, prefix=prefix)
    else:
        found = names.convert_ldm_clip_checkpoint(weights)
    if not hasattr(model, "text_model"):
        found = {name.removeprefix("text_model."): each for name, each in found.items()}
    return model, found


def _empty(folder: Path) -> Any:
    """The UNet or VAE that `folder` configures, without weights."""
    import diffusers

    kind = cast(Any, diffusers.UNet2DConditionModel if folder.name == "unet" else diffusers.AutoencoderKL)
    model_config.require_plain(folder / "config.json", kind)
    with torch.device("meta"):
        return kind.from_config(model_config.read_json(folder / "config.json"))


def _read(file: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, read from the file's own memory map."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys() if name.startswith(prefix)}  # noqa: SIM118


def _in_short(error: Exception) -> str:
    """torch lists every weight of another shape; the first of them is enough."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300]
