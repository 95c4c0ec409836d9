"""Image attention: every cross-attention also reads the tokens of a picture (Ye et al. 2023, "IP-Adapter").

A layer's result is `W (text + scale * image) + b`, and the image's part depends on the query alone. So two hooks on
each cross-attention are enough: one remembers what `to_q` gives, the other adds the image's part to what enters
`to_out[0]`. No attention processor is replaced, and keys and values are computed once, before the first step.
"""

# B batch . T image tokens . w text width . c a layer's width . H heads . h, w height and width of latents or a layer

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pmagic.engine.attention import CrossAttention, cross_attentions, grid
from pmagic.engine.hooks import Hooks, exchanged_attributes, installed_hooks
from pmagic.engine.regions import Box, region_weights

Projections = Mapping[str, tuple[Tensor, Tensor]]  # by cross-attention, weights (c, w) of image keys and image values


@dataclass(frozen=True, eq=False)
class Look:
    """What every cross-attention reads of one look: keys and values (2, T, c), of no picture and of the look.

    identity: SHA-256 over both, for the step cache.
    """

    keys: Mapping[str, Tensor]
    values: Mapping[str, Tensor]
    identity: str


@torch.no_grad()
def make_look(projections: Projections, tokens: Tensor) -> Look:
    """Project image tokens (2, T, w), of no picture and of the look, for every cross-attention."""
    keys = {name: F.linear(tokens, to_k) for name, (to_k, _) in projections.items()}  # (2, T, c)
    values = {name: F.linear(tokens, to_v) for name, (_, to_v) in projections.items()}  # (2, T, c)
    total = hashlib.sha256()
    for each in (*keys.values(), *values.values()):
        total.update(each.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return Look(keys, values, total.hexdigest())


@contextmanager
def image_attention(
    unet: nn.Module,
    looks: Sequence[Look],
    scale: float,
    *,
    guided: bool,
    boxes: Sequence[Box] = (),
    places: Sequence[int] = (),
) -> Iterator[None]:
    """While inside, cross-attention adds `scale` times its attention to each look.

    guided: whether the first half of every batch is unconditional, and reads the tokens of no picture. boxes, places:
    the regions of the picture, and for each look the index of its own; without places a look is read everywhere.
    """
    if scale == 0:
        yield
        return
    extent: list[int] = []  # of the latents in the current call
    queries: dict[str, Tensor] = {}
    whole = _Shares(boxes)

    def remember_extent(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sample = args[0] if args else kwargs["sample"]
        extent[:] = sample.shape[-2:]

    def watch(name: str, attention: CrossAttention) -> tuple[Hooks, Hooks]:
        def remember_query(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            queries[name] = output

        def add_image(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            text, query = args[0], queries.pop(name)
            for number, look in enumerate(looks):
                image = scale * _attend(query, look.keys[name], look.values[name], attention.heads, guided)
                if places:
                    image = image * whole.of_layer(extent, query)[places[number]]
                text = text + image.to(text.dtype)
            return (text, *args[1:]), kwargs

        return [(attention.to_q, remember_query)], [(cast(Any, attention).to_out[0], add_image)]

    pairs = [watch(name, module) for name, module in cross_attentions(unet).items()]
    after = [hook for found, _ in pairs for hook in found]
    before = [(unet, remember_extent), *(hook for _, found in pairs for hook in found)]
    identity = repr((scale, guided, tuple(boxes), tuple(places), [each.identity for each in looks]))
    with exchanged_attributes([unet], ACTIVE, identity), installed_hooks(before=before, after=after):
        yield


ACTIVE = "pmagic_image_attention"  # the attribute of a UNet that says which looks its cross-attentions read


def active(unet: nn.Module) -> str:
    """What identifies the looks that the UNet reads at present; "" without any. The step cache compares it."""
    return vars(unet).get(ACTIVE, "")


def _attend(query: Tensor, keys: Tensor, values: Tensor, heads: int, guided: bool) -> Tensor:
    """Attention of the query (B, h * w, c) to image keys and values (2, T, c): (B, h * w, c)."""
    batch = len(query)
    rows = torch.ones(batch, dtype=torch.long, device=query.device)  # 0: no picture, 1: the look
    if guided:
        rows[: batch // 2] = 0
    parts = (query, *(each.to(query.dtype)[rows] for each in (keys, values)))
    q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in parts)  # (B, H, positions, c / H)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class _Shares:
    """The share of each cell of a layer in each region, computed once for each size of a layer."""

    def __init__(self, boxes: Sequence[Box]) -> None:
        self._boxes = boxes
        self._found: dict[int, Tensor] = {}

    def of_layer(self, extent: Sequence[int], query: Tensor) -> Tensor:
        """(K, 1, h * w, 1) for the cells of the query (B, h * w, c)."""
        cells = query.shape[1]
        if cells not in self._found:
            shares = region_weights(self._boxes, (extent[0], extent[1])).to(query)
            layer = F.adaptive_avg_pool2d(shares, grid(extent, cells))
            self._found[cells] = layer.flatten(1)[:, None, :, None]
        return self._found[cells]
