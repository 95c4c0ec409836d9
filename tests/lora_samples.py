"""LoRA files in the forms of several programs for a tiny base, and what diffusers itself makes of them."""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from pmagic.bases import loading
from pmagic.engine import composing, conditioning
from pmagic.engine.rendering import initial_noise
from pmagic.persona import Persona

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
RANK, ALPHA = 3, 1.5


def modules_of(network: nn.Module) -> dict[str, nn.Module]:
    """Everything that LoRA programs train: linear layers and convolutions."""
    kinds = (nn.Linear, nn.Conv2d)
    return {name: module for name, module in network.named_modules() if isinstance(module, kinds)}


def factors(module: nn.Module, rank: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random (up, down) of a module, in the shapes that all programs write."""
    weight = module.weight
    kernel = weight.shape[2:]
    ones = (1,) * len(kernel)
    up = torch.randn(weight.shape[0], rank, *ones, generator=source) / 4
    return up, torch.randn(rank, weight.shape[1], *kernel, generator=source) / 4


def kohya(base: loading.Base, *, alpha: float | None = ALPHA, text: bool = True, only: tuple[str, ...] = ()) -> dict:
    """kohya's names; only: ends of the modules' names. Ranks differ between the modules."""
    source, tensors = torch.Generator().manual_seed(3), {}
    networks = {"lora_unet_": base.pipeline.unet}
    if text:
        networks["lora_te_text_model_"] = conditioning.clip_text_model(base.pipeline.text_encoder)
    for prefix, network in networks.items():
        for number, (name, module) in enumerate(modules_of(network).items()):
            if not name.endswith(only or name):
                continue
            up, down = factors(module, RANK + number % 2, source)
            key = prefix + name.replace(".", "_")
            tensors |= {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}
            if alpha is not None:
                tensors[f"{key}.alpha"] = torch.tensor(alpha)
    return tensors


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    safetensors.torch.save_file(tensors, path, metadata)
    return path


def inputs(base: loading.Base) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, a timestep and token ids."""
    ids = torch.arange(3, 80)[None] % len(base.pipeline.tokenizer)
    return initial_noise(base, [5], base.size, base.size), torch.tensor(400), ids


@torch.no_grad()
def outputs(pipeline: Any, noise: Tensor, t: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The text encoder's encoding of `ids`, and the UNet's prediction with that."""
    encoded = pipeline.text_encoder(ids).last_hidden_state
    return encoded, pipeline.unet(noise, t, encoder_hidden_states=encoded).sample


def by_pmagic(base: loading.Base, persona: Persona) -> tuple[Tensor, Tensor]:
    with composing.apply_personas(base, {"": persona}):
        return outputs(base.pipeline, *inputs(base))


def by_diffusers(base: loading.Base, folder: Path, file: Path) -> tuple[Tensor, Tensor]:
    """The same from diffusers' own loader, in a pipeline of its own."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    return outputs(pipeline, *inputs(base))


def distance(one: Tensor, other: Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()
