"""Regions: several texts in one picture, each read by cross-attention in its own part of it.

The texts are concatenated on the axis of text positions. In every cross-attention, each cell of the picture gets a
bias per position: the logarithm of the share of the cell that belongs to the text's region. A cell inside one region
reads that text alone; a cell on a border reads both, weighted by their shares.
"""

# K texts . S text positions of each . B batch . h, w a layer's own height and width

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pmagic.engine.attention import cross_attentions, grid
from pmagic.engine.hooks import installed_hooks

# Left, top, right, bottom as shares of the picture's width and height, range [0, 1].
Box = tuple[float, float, float, float]


def region_weights(boxes: Sequence[Box], size: tuple[int, int]) -> Tensor:
    """The share of each cell in each box and, last, outside all boxes: (K, h, w), sums to 1 over K.

    Overlapping boxes share a cell equally. K is the number of boxes plus one.
    """
    height, width = size
    covered = torch.stack(
        [
            _coverage(top, bottom, height)[:, None] * _coverage(left, right, width)[None, :]
            for left, top, right, bottom in boxes
        ]
    )
    found = torch.cat([covered, (1 - covered).prod(dim=0, keepdim=True)])
    return found / found.sum(dim=0)


@contextmanager
def regional_attention(unet: nn.Module, shares: Tensor | None) -> Iterator[None]:
    """While inside, cross-attention reads text k of the condition's K texts only where its share is not 0.

    shares: (K, h, w) on the grid of the latents, summing to 1 over K; None for no restriction.
    """
    if shares is None:
        yield
        return
    biases: dict[tuple[int, int], Tensor] = {}
    extent: list[int] = []  # of the latents in the current call

    def remember_extent(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sample = args[0] if args else kwargs["sample"]
        extent[:] = sample.shape[-2:]

    def put_in(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        batch, cells, _ = args[0].shape
        positions = kwargs["encoder_hidden_states"].shape[1]
        if (cells, positions) not in biases:
            layer = F.adaptive_avg_pool2d(shares.to(args[0]), grid(extent, cells))  # (K, h, w)
            bias = layer.log().flatten(1).T.repeat_interleave(positions // len(shares), dim=1)  # (h * w, K * S)
            biases[cells, positions] = bias
        kwargs["attention_mask"] = biases[cells, positions].expand(batch, -1, -1)
        return args, kwargs

    layers = [(cast(nn.Module, module), put_in) for module in cross_attentions(unet).values()]
    with installed_hooks(before=[(unet, remember_extent), *layers]):
        yield


def _coverage(low: float, high: float, cells: int) -> Tensor:
    """The share of each of `cells` equal parts of [0, 1] that lies in [low, high]: (cells,)."""
    edges = torch.arange(cells + 1) / cells
    return ((edges[1:].clamp(max=high) - edges[:-1].clamp(min=low)).clamp(min=0) * cells).clamp(max=1)
