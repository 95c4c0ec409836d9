"""Attention: maps of where the UNet's cross-attention attends to given tokens of the prompt.

Two hooks on each cross-attention (`to_q`, `to_k`) capture the queries and keys. The attention processors are not
replaced, and the condition may be packed `[K|V]` or not. Capturing costs a second softmax per layer, so it is not
used in training steps.
"""

# B batch . H heads . S text positions . h, w a layer's own height and width

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pmagic.engine.hooks import Hooks, installed_hooks

PARTS = ("down_blocks", "mid_block", "up_blocks")  # of a UNet, in the order of its forward pass


class CrossAttention(Protocol):
    """The attributes of diffusers' Attention that are used here; its own annotations make `to_k` optional."""

    heads: int
    scale: float
    to_q: nn.Linear
    to_k: nn.Linear
    to_v: nn.Linear


MIDDLE = (2, 4)  # a layer of middle resolution is at least and at most this many times coarser than the latents
# The least cells per side with which a map can outline a face: on the miniature, maps of 8 x 8 cells overlap the exact
# mask equally little at every t, while the overlap of 16 x 16 maps grows as t falls
# (`python -m pmagic.experiments.stages`).
FINEST = 12


@dataclass(frozen=True)
class AttentionMap:
    """One cross-attention in one UNet call: the target tokens' share of each cell's attention."""

    layer: str
    weights: Tensor  # (B, h, w) float32, range [0, 1], mean over heads and target tokens


def cross_attentions(unet: nn.Module) -> Mapping[str, CrossAttention]:
    """Every cross-attention of a UNet by name, in the order in which a forward pass calls them."""
    if unet not in _cross_attentions:  # cached: walking all modules takes longer than installing hooks
        found = [(name, module) for name, module in unet.named_modules() if name.endswith("attn2")]
        ordered = sorted(found, key=lambda each: PARTS.index(each[0].partition(".")[0]))
        _cross_attentions[unet] = cast(dict[str, CrossAttention], dict(ordered))
    return _cross_attentions[unet]


_cross_attentions: WeakKeyDictionary[nn.Module, dict[str, CrossAttention]] = WeakKeyDictionary()


@contextmanager
def capture_attention(unet: nn.Module, target: Tensor, competing: Tensor) -> Iterator[list[AttentionMap]]:
    """While inside, every UNet call appends one AttentionMap per cross-attention to the list.

    target: (B, S) bool, the text positions to map in each row of the batch, at least one per row. competing: (B, S)
    bool, the positions that compete for each cell's attention, `target` included. The start, end and padding tokens
    receive most of the attention and say nothing about the picture (Chefer et al. 2023, "Attend-and-Excite", leave out
    the start), so only the words should compete.
    """
    maps: list[AttentionMap] = []
    extent: list[int] = []  # of the latents in the current call
    queries: dict[str, Tensor] = {}

    def remember_extent(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sample = args[0] if args else kwargs["sample"]
        extent[:] = sample.shape[-2:]

    def watch(name: str, attention: CrossAttention) -> Hooks:
        def see_queries(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            queries[name] = output

        def see_keys(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            both = [each.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for each in (queries.pop(name), output)]
            scores = (both[0] @ both[1].transpose(-1, -2)).float() * attention.scale  # (B, H, h * w, S)
            watched, rivals = (each.to(scores.device)[:, None, None, :] for each in (target, competing))
            scores = scores.masked_fill(~rivals, float("-inf"))
            share = (scores.softmax(dim=-1) * watched).sum(dim=-1) / watched.sum(dim=-1)
            maps.append(AttentionMap(name, share.mean(dim=1).unflatten(-1, grid(extent, share.shape[-1]))))

        return [(attention.to_q, see_queries), (attention.to_k, see_keys)]

    layers = [hook for name, module in cross_attentions(unet).items() for hook in watch(name, module)]
    with installed_hooks(before=[(unet, remember_extent)], after=layers):
        yield maps


def average(maps: Sequence[AttentionMap], size: tuple[int, int]) -> Tensor:
    """The mean map of the layers of middle resolution, resized to `size`, that of the latents: (B, h, w).

    Those are the layers two to four times coarser than the latents (32 and 16 cells per side for Stable Diffusion)
    with at least 12 cells per side: coarser maps outline nothing, and the finest follow edges. If a UNet has no such
    layer, its finest layers are used.
    """
    sides = {each.layer: min(each.weights.shape[-2:]) for each in maps}
    whole = min(size)
    middle = {name for name, side in sides.items() if whole >= MIDDLE[0] * side and _is_fine(side, whole)}
    kept = middle or {name for name, side in sides.items() if side == max(sides.values())}
    weights = [each.weights[:, None] for each in maps if each.layer in kept]
    return torch.cat([F.interpolate(each, size=size, mode="bilinear") for each in weights], dim=1).mean(dim=1)


def _is_fine(side: int, whole: int) -> bool:
    return side >= FINEST and whole <= MIDDLE[1] * side


def grid(extent: Sequence[int], cells: int) -> tuple[int, int]:
    """Height and width of a layer with `cells` cells, from those of the latents: each level halves both, rounded up."""
    height, width = extent
    while height * width > cells:
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    return height, width
