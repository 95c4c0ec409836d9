"""Attention: where in the picture the UNet's cross-attention looks for some of the prompt's tokens.

Two hooks on each cross-attention (`to_q`, `to_k`) see what its own processor multiplies; the processors stay, whether
the condition is packed `[K|V]` or not. It costs a second softmax a layer, so nothing installs it while training.
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

PARTS = ("down_blocks", "mid_block", "up_blocks")  # of a UNet, in the order of its forward pass, not of its modules


class CrossAttention(Protocol):
    """What is read of diffusers' Attention; its own annotations allow for one without keys."""

    heads: int
    scale: float
    to_q: nn.Linear
    to_k: nn.Linear
    to_v: nn.Linear


MIDDLE = (2, 4)  # how much coarser than the latents a layer of middle resolution may be
# Cells of a side below which a map is too coarse to outline a face: on the miniature, maps of 8 x 8 cells overlap the
# exact mask equally little at every t, those of 16 x 16 more and more as t falls
# (`python -m pmagic.experiments.stages`).
FINEST = 12


@dataclass(frozen=True)
class AttentionMap:
    """One cross-attention in one UNet call: what share of each cell's attention to some tokens the chosen ones got."""

    layer: str
    weights: Tensor  # (B, h, w) float32, range [0, 1], mean over heads and chosen tokens


def cross_attentions(unet: nn.Module) -> Mapping[str, CrossAttention]:
    """Every cross-attention of a UNet by its name, in the order in which a forward pass calls them."""
    if unet not in _cross_attentions:  # looking at every module takes longer than installing hooks
        found = [(name, module) for name, module in unet.named_modules() if name.endswith("attn2")]
        ordered = sorted(found, key=lambda each: PARTS.index(each[0].partition(".")[0]))
        _cross_attentions[unet] = cast(dict[str, CrossAttention], dict(ordered))
    return _cross_attentions[unet]


_cross_attentions: WeakKeyDictionary[nn.Module, dict[str, CrossAttention]] = WeakKeyDictionary()


@contextmanager
def capture_attention(unet: nn.Module, chosen: Tensor, among: Tensor) -> Iterator[list[AttentionMap]]:
    """While inside, every UNet call adds one look per cross-attention to the list.

    chosen: (B, S) bool, the text positions that are looked for in each row of the batch, at least one each. among:
    (B, S) bool, the positions that share each cell's attention, `chosen` and what it competes with. Start, end and
    padding take most of what a cell has to give and say nothing of the picture (Chefer et al. 2023,
    "Attend-and-Excite", leave out the start), so a reader of maps takes the words alone.
    """
    looks: list[AttentionMap] = []
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
            watched, rivals = (each.to(scores.device)[:, None, None, :] for each in (chosen, among))
            scores = scores.masked_fill(~rivals, float("-inf"))
            share = (scores.softmax(dim=-1) * watched).sum(dim=-1) / watched.sum(dim=-1)
            looks.append(AttentionMap(name, share.mean(dim=1).unflatten(-1, grid(extent, share.shape[-1]))))

        return [(attention.to_q, see_queries), (attention.to_k, see_keys)]

    layers = [hook for name, module in cross_attentions(unet).items() for hook in watch(name, module)]
    with installed_hooks(before=[(unet, remember_extent)], after=layers):
        yield looks


def average(looks: Sequence[AttentionMap], size: tuple[int, int]) -> Tensor:
    """The mean over the layers of middle resolution, enlarged to `size`, that of the latents: (B, h, w).

    Those are the layers two to four times coarser than the latents (32 and 16 cells a side for Stable Diffusion) with
    at least 12 cells; coarser ones outline nothing, the finest follow edges. A UNet without any gives its finest.
    """
    sides = {look.layer: min(look.weights.shape[-2:]) for look in looks}
    whole = min(size)
    middle = {name for name, side in sides.items() if whole >= MIDDLE[0] * side and _is_fine(side, whole)}
    kept = middle or {name for name, side in sides.items() if side == max(sides.values())}
    maps = [look.weights[:, None] for look in looks if look.layer in kept]
    return torch.cat([F.interpolate(each, size=size, mode="bilinear") for each in maps], dim=1).mean(dim=1)


def _is_fine(side: int, whole: int) -> bool:
    return side >= FINEST and whole <= MIDDLE[1] * side


def grid(extent: Sequence[int], cells: int) -> tuple[int, int]:
    """Height and width of a layer of `cells` cells, from those of the latents: each level halves both, rounding up."""
    height, width = extent
    while height * width > cells:
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    return height, width
