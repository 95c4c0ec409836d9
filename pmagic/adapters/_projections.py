"""The networks that make image tokens of an encoder's output, with the parameters' names of IP-Adapter's files."""

# N pictures . e projection width . P patches and the class token . v width of the vision model . T image tokens
# w text width . d width of the resampler . H heads

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD = 64  # the width of a head of the resampler in every file


class Classic(nn.Module):
    """One linear layer and a norm, for the projection of the whole picture."""

    reads_states = False

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        outputs, inputs = shapes["proj.weight"]
        (width,) = shapes["norm.weight"]
        self.width_in = inputs
        self.proj = nn.Linear(inputs, outputs)
        self.norm = nn.LayerNorm(width)

    def forward(self, embedding: Tensor) -> Tensor:
        """(N, e) -> (N, T, w)."""
        return self.norm(self.proj(embedding).unflatten(-1, (-1, *self.norm.normalized_shape)))


class Full(nn.Module):
    """Two linear layers and a norm, for each patch."""

    reads_states = True

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        hidden, inputs = shapes["proj.0.weight"]
        outputs, _ = shapes["proj.2.weight"]
        self.width_in = inputs
        self.proj = nn.Sequential(
            nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs), nn.LayerNorm(outputs)
        )

    def forward(self, states: Tensor) -> Tensor:
        """(N, P, v) -> (N, P, w)."""
        return self.proj(states)


class Plus(nn.Module):
    """A resampler (Alayrac et al. 2022, "Flamingo"): learned latents attend to the patches and to themselves."""

    reads_states = True

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        width, inputs = shapes["proj_in.weight"]
        outputs, _ = shapes["proj_out.weight"]
        inner, _ = shapes["layers.0.0.to_q.weight"]
        hidden, _ = shapes["layers.0.1.1.weight"]
        depth = len({name.split(".")[1] for name in shapes if name.startswith("layers.")})
        self.width_in = inputs
        self.latents = nn.Parameter(torch.empty(shapes["latents"]))
        self.proj_in = nn.Linear(inputs, width)
        self.proj_out = nn.Linear(width, outputs)
        self.norm_out = nn.LayerNorm(outputs)
        layers = [[_ResamplerAttention(width, inner), _feed_forward(width, hidden)] for _ in range(depth)]
        self.layers = nn.ModuleList(nn.ModuleList(each) for each in layers)

    def forward(self, states: Tensor) -> Tensor:
        """(N, P, v) -> (N, T, w)."""
        patches = self.proj_in(states)  # (N, P, d)
        latents = self.latents.expand(len(states), -1, -1)  # (N, T, d)
        for layer in self.layers:
            attention, feed_forward = cast(nn.ModuleList, layer)
            latents = attention(patches, latents) + latents
            latents = feed_forward(latents) + latents
        return self.norm_out(self.proj_out(latents))


class _ResamplerAttention(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, patches: Tensor, latents: Tensor) -> Tensor:
        """patches (N, P, d), latents (N, T, d) -> (N, T, d)."""
        patches, latents = self.norm1(patches), self.norm2(latents)
        keys, values = self.to_kv(torch.cat([patches, latents], dim=1)).chunk(2, dim=-1)
        q, k, v = (each.unflatten(-1, (-1, HEAD)).transpose(1, 2) for each in (self.to_q(latents), keys, values))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _feed_forward(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, hidden, bias=False), nn.GELU(), nn.Linear(hidden, width, bias=False)
    )


# The network of a file, by the name of a tensor that only its layout has.
LAYOUTS: Mapping[str, type[Classic | Full | Plus]] = {"proj.weight": Classic, "proj.3.weight": Full, "latents": Plus}
