"""Small random adapters in the official layouts of IP-Adapter, with an image encoder, for the tiny bases."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

PROJECTED, STATES = 24, 16  # widths of the encoder's outputs
TOKENS, INNER, WIDTH = 3, 128, 48  # of the resampler: latents, two heads of 64, its own width

Make = Callable[..., Tensor]


def classic(make: Make, text: int) -> Mapping[str, Tensor]:
    return {
        "proj.weight": make(4 * text, PROJECTED), "proj.bias": make(4 * text),
        "norm.weight": 1 + make(text), "norm.bias": make(text),
    }  # fmt: skip


def full(make: Make, text: int) -> Mapping[str, Tensor]:
    return {
        "proj.0.weight": make(STATES, STATES), "proj.0.bias": make(STATES),
        "proj.2.weight": make(text, STATES), "proj.2.bias": make(text),
        "proj.3.weight": 1 + make(text), "proj.3.bias": make(text),
    }  # fmt: skip


def plus(make: Make, text: int) -> Mapping[str, Tensor]:
    tensors = {
        "latents": make(1, TOKENS, WIDTH),
        "proj_in.weight": make(WIDTH, STATES), "proj_in.bias": make(WIDTH),
        "proj_out.weight": make(text, WIDTH), "proj_out.bias": make(text),
        "norm_out.weight": 1 + make(text), "norm_out.bias": make(text),
    }  # fmt: skip
    for layer in range(4):
        for norm in ("0.norm1", "0.norm2", "1.0"):
            tensors |= {f"layers.{layer}.{norm}.weight": 1 + make(WIDTH), f"layers.{layer}.{norm}.bias": make(WIDTH)}
        tensors |= {
            f"layers.{layer}.0.to_q.weight": make(INNER, WIDTH),
            f"layers.{layer}.0.to_kv.weight": make(2 * INNER, WIDTH),
            f"layers.{layer}.0.to_out.weight": make(WIDTH, INNER),
            f"layers.{layer}.1.1.weight": make(4 * WIDTH, WIDTH),
            f"layers.{layer}.1.3.weight": make(WIDTH, 4 * WIDTH),
        }
    return tensors


LAYOUTS: Mapping[str, Callable[[Make, int], Mapping[str, Tensor]]] = {"classic": classic, "full": full, "plus": plus}


def build_ip_adapter(folder: Path, unet: Any, layout: str = "classic", seed: int = 0) -> Path:
    """FOLDER/LAYOUT.safetensors in the official format for this UNet, and FOLDER/image_encoder beside it."""
    source = torch.Generator().manual_seed(seed)
    make = functools.partial(_normal, source)
    text = unet.config.cross_attention_dim
    tensors = {f"image_proj.{name}": each for name, each in LAYOUTS[layout](make, text).items()}
    modules = dict(unet.named_modules())
    names = [name.removesuffix(".processor") for name in unet.attn_processors]
    for number, name in enumerate(names):  # of all attentions: those to the text have odd numbers
        if name.endswith("attn2"):
            shape = modules[f"{name}.to_k"].weight.shape
            for part in ("to_k_ip", "to_v_ip"):
                tensors[f"ip_adapter.{number}.{part}.weight"] = make(*shape)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{layout}.safetensors"
    save_file({name: each.contiguous() for name, each in tensors.items()}, path)
    if not (folder / "image_encoder").is_dir():
        build_encoder(folder / "image_encoder")
    return path


def build_mean_color(folder: Path, unet: Any) -> Path:
    """A file of the example in CONTRIBUTING.md."""
    make = functools.partial(_normal, torch.Generator().manual_seed(0))
    tensors = {"color.weight": make(unet.config.cross_attention_dim, 3)}
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            tensors |= {f"color.{name}.{part}": make(*module.to_k.weight.shape) for part in ("keys", "values")}
    build_encoder(folder / "image_encoder")
    save_file(tensors, folder / "mean_color.safetensors")
    return folder / "mean_color.safetensors"


def build_encoder(folder: Path, projected: int = PROJECTED) -> Path:
    """A CLIP vision model: pictures 32 x 32, four patches a side, two layers."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(3)
    config = CLIPVisionConfig(
        hidden_size=STATES, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32,
        patch_size=8, projection_dim=projected,
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def _normal(source: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=source) * (0.1 if len(shape) == 1 else shape[-1] ** -0.5)
