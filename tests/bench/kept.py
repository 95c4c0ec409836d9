"""What one training sample keeps for the backward pass, counted on shapes alone: no weights, no memory, no GPU.

    python -m tests.bench.kept

The UNet runs on torch's meta device, where tensors have shapes and no numbers. Each tensor that autograd saves counts
once, and attention counts as the fused kernels keep it. The first table has Stable Diffusion 1.x, whose memory is also
measured (`python -m tests.bench memory --shape sd14`), and Stable Diffusion XL, whose memory is estimated from these
numbers. The second table is that estimate for learning, besides the program's own memory.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import diffusers
import torch
from torch import Tensor
from torch.nn import functional as F

from pmagic.bases import memory_estimate, model_config, model_spec
from pmagic.engine import mapper
from pmagic.engine.recipes import settings_for

SHAPES = ("sd1", "sdxl")
TOKENS = 77


class Fused(torch.autograd.Function):
    """What a fused attention keeps: queries, keys, values, output, and one number for each query of a head."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device))
        return out

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError("only the forward pass is counted")


class Counter:
    """Bytes of the tensors saved while it is on; each storage once. known: storages that count as no memory."""

    def __init__(self, known: set[int]) -> None:
        self.known, self.alive, self.bytes = known, [], 0

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.known:
            self.known.add(storage._cdata)
            self.alive.append(storage)  # or its address would be used again
            self.bytes += storage.nbytes()

    @contextmanager
    def on(self) -> Iterator[None]:
        def pack(tensor: Tensor) -> Tensor:
            self.add(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield


def kept(shape: str, dtype: torch.dtype, *, low: bool, side: int | None = None) -> int:
    """Bytes that one sample of a base's own size keeps. low: with each block computed again."""
    config = model_config.read_json(model_spec.SINGLE_FILES / shape / "unet" / "config.json")
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(config).to(dtype).requires_grad_(False)
        side = side or config["sample_size"]
        latents = torch.empty(1, 4, side, side, dtype=dtype)
        text = torch.empty(1, TOKENS, config["cross_attention_dim"], dtype=dtype, requires_grad=True)
        t = torch.empty(1)
        added = {"text_embeds": torch.empty(1, 1280, dtype=dtype), "time_ids": torch.empty(1, 6, dtype=dtype)}
    counter = Counter({each.untyped_storage()._cdata for each in unet.parameters()})
    largest = 0

    def computed_again(block: Callable[..., Any], *given: Any) -> Any:
        nonlocal largest
        for each in given:
            if isinstance(each, Tensor) and each.requires_grad:
                counter.add(each)
        inside = Counter(set(counter.known))
        with inside.on():
            output = block(*given)
        largest = max(largest, inside.bytes)
        return output

    if low:
        unet.train()
        unet.enable_gradient_checkpointing(computed_again)
    fused = mock.patch.object(F, "scaled_dot_product_attention", lambda q, k, v, **rest: Fused.apply(q, k, v))
    with fused, counter.on():
        unet(latents, t, encoder_hidden_states=text, added_cond_kwargs=added, return_dict=False)
    return counter.bytes + largest


def estimate(recipe: str, batch: int, *, low: bool) -> int:
    """What `pmagic learn` says before it starts: bytes for Stable Diffusion XL on a GPU that computes in bfloat16."""
    counts = {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840}
    spec = replace(model_spec.resolve("sdxl"), folder=model_spec.SINGLE_FILES / "sdxl")
    widths = mapper.MapperShape(4, memory_estimate.text_width(spec), 512)
    settings = settings_for(recipe, {})
    with mock.patch.object(memory_estimate, "parameters_by_part", lambda spec: counts):
        return memory_estimate.memory_to_learn(
            spec, batch, trained=mapper.count_weights(widths), half=True, low=low, decodes=settings.looks_at_faces
        )


if __name__ == "__main__":
    diffusers.utils.logging.set_verbosity_error()
    print("| shape | bytes a number | kept | computed again |\n|---|---|---|---|")
    for name in SHAPES:
        for number in (torch.bfloat16, torch.float32):
            both = (kept(name, number, low=low) / 1e9 for low in (False, True))
            print(f"| {name} | {number.itemsize} | " + " | ".join(f"{each:.2f} GB" for each in both) + " |")
    print("\n| recipe | batch | `--memory normal` | `--memory low` |\n|---|---|---|---|")
    for recipe in ("reference", "paper"):
        for batch in (1, 2):
            both = (estimate(recipe, batch, low=low) / 1e9 for low in (False, True))
            print(f"| `{recipe}` | {batch} | " + " | ".join(f"{each:.1f} GB" for each in both) + " |")
