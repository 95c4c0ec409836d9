"""Conditioning: three hooks that apply a persona to a stock diffusion pipeline. No weight is changed.

They are dynamic tokens (a hook on the text encoder's token embedding), separate keys and values (packed `[K|V]` on the
feature axis and split before each cross-attention's `to_k` and `to_v`), and the timestep switch (a hook on the UNet).
"""

# B batch . S text positions . n placeholder tokens . w text width . H heads

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from pmagic.bases.loading import Base
from pmagic.engine.attention import cross_attentions
from pmagic.engine.hooks import installed_hooks
from pmagic.engine.mapper import keep_length

if TYPE_CHECKING:
    from transformers import CLIPTextModel
    from transformers.models.clip.modeling_clip import CLIPAttention, CLIPEncoderLayer


@dataclass(frozen=True)
class Condition:
    """What cross-attention reads: keys and values, each (B, S, w)."""

    keys: Tensor
    values: Tensor

    def pack(self) -> Tensor:
        """[K|V] on the feature axis: (B, S, 2w)."""
        return torch.cat([self.keys, self.values], dim=-1)


@dataclass(frozen=True)
class Encoded:
    """A condition, and the last layer's self-attention probabilities (B, H, S, S) if they were requested."""

    condition: Condition
    attention: Tensor | None


def encode(
    text_encoder: "CLIPTextModel",
    ids: Tensor,
    placeholder_index: Tensor,
    dynamic: Tensor,
    residual: Tensor | None,
    *,
    with_attention: bool = False,
) -> Encoded:
    """Encode prompts in which dynamic tokens stand for the name (paper, Fig. 3).

    ids: (B, S) token ids; any id may stand at the placeholders. placeholder_index: (B, S), k where dynamic token k
    stands and -1 elsewhere. dynamic: (B, n, w). residual: (B, n, w), mixed into the values alone and *before* the final
    layer norm, at the length of the hidden state there; None means that the values are the keys.
    """
    with ExitStack() as hooks:
        hooks.enter_context(dynamic_tokens(text_encoder, placeholder_index, dynamic))
        projections = hooks.enter_context(_last_projections(text_encoder)) if with_attention else None
        # No attention mask: the stock pipeline passes none, and padding is part of what cross-attention reads.
        output = text_encoder(ids, output_hidden_states=residual is not None)
    keys = values = output.last_hidden_state
    if residual is not None:
        hidden = output.hidden_states[-1]  # (B, S, w), before the final layer norm
        mixed = keep_length(hidden + _at_placeholders(residual.to(hidden.dtype), placeholder_index), hidden)
        mixed = torch.where((placeholder_index >= 0).unsqueeze(-1), mixed, hidden)
        values = clip_text_model(text_encoder).final_layer_norm(mixed)
    attention = _probabilities(text_encoder, projections) if projections is not None else None
    return Encoded(Condition(keys, values), attention)


@contextmanager
def dynamic_tokens(text_encoder: "CLIPTextModel", placeholder_index: Tensor, dynamic: Tensor) -> Iterator[None]:
    """While inside, the token embedding returns `dynamic` (B, n, w) wherever `placeholder_index` (B, S) is not -1."""

    def put_in(module: nn.Module, args: tuple[Any, ...], embedded: Tensor) -> Tensor:
        return torch.where(
            (placeholder_index >= 0).unsqueeze(-1),
            _at_placeholders(dynamic.to(embedded.dtype), placeholder_index),
            embedded,
        )

    with installed_hooks(after=[(text_encoder.get_input_embeddings(), put_in)]):
        yield


@contextmanager
def packed_kv(unet: nn.Module) -> Iterator[None]:
    """While inside, every cross-attention of `unet` takes keys from the first w features and values from the last w.

    An unpacked condition has the width that `to_k` expects, so it passes through unchanged. Each projection casts the
    condition to the type of its weights, so that their gradients are summed in the condition's own type.
    """
    keys = [(module.to_k, _first_features) for module in cross_attentions(unet).values()]
    values = [(module.to_v, _last_features) for module in cross_attentions(unet).values()]
    with installed_hooks(before=keys + values):
        yield


@contextmanager
def timestep_switch(unet: nn.Module, rows: Mapping[float, Tensor], pictures: int) -> Iterator[None]:
    """While inside, the conditional half of every UNet call uses the condition of that call's t.

    rows: packed condition (S, 2w) by timestep. pictures: the number of pictures in a batch; with guidance, the UNet is
    called with twice as many rows, the unconditional first.
    """

    def put_in(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        condition = kwargs["encoder_hidden_states"].clone()
        condition[-pictures:] = rows[float(args[1])].to(condition.dtype)
        kwargs["encoder_hidden_states"] = condition
        return args, kwargs

    with installed_hooks(before=[(unet, put_in)]):
        yield


@contextmanager
def unet_in_compute_dtype(base: Base) -> Iterator[None]:
    """While inside, the base's UNet computes in `base.compute_dtype` and returns `base.weights_dtype`.

    A compute_dtype of None changes nothing. The condition goes through `packed_kv`, or must have the type of the
    weights that project it. The output is not left in half precision, because guidance multiplies the difference of two
    close numbers, which would lose its digits.
    """

    def cast_inputs(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return (args[0].to(base.compute_dtype), *args[1:]), kwargs

    def cast_outputs(module: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(each.to(base.weights_dtype) for each in output)

    if base.compute_dtype is None:
        yield
        return
    unet = base.pipeline.unet
    with installed_hooks(before=[(unet, cast_inputs)], after=[(unet, cast_outputs)]), base.autocast():
        yield


def clip_text_model(text_encoder: "CLIPTextModel") -> "CLIPTextModel":
    """The module that holds `encoder` and `final_layer_norm`; some transformers classes wrap it in `text_model`."""
    return getattr(text_encoder, "text_model", text_encoder)


def _at_placeholders(vectors: Tensor, placeholder_index: Tensor) -> Tensor:
    """vectors (B, n, w) laid out along text positions: (B, S, w); meaningless where placeholder_index is -1."""
    return torch.take_along_dim(vectors, placeholder_index.clamp(min=0).unsqueeze(-1), dim=1)


def _first_features(module: nn.Linear, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return (args[0][..., : module.in_features].to(module.weight.dtype), *args[1:]), kwargs


def _last_features(module: nn.Linear, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return (args[0][..., -module.in_features :].to(module.weight.dtype), *args[1:]), kwargs


def _last_attention(text_encoder: "CLIPTextModel") -> "CLIPAttention":
    return cast("CLIPEncoderLayer", clip_text_model(text_encoder).encoder.layers[-1]).self_attn


@contextmanager
def _last_projections(text_encoder: "CLIPTextModel") -> Iterator[dict[str, Tensor]]:
    """Capture queries and keys of the last self-attention, each (B, S, w), as the forward pass computes them."""
    attention = _last_attention(text_encoder)
    seen: dict[str, Tensor] = {}

    def see_queries(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        seen["queries"] = output

    def see_keys(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        seen["keys"] = output

    hooks = [
        (attention.q_proj, lambda module, args, output: seen.__setitem__("queries", output)),
        (attention.k_proj, lambda module, args, output: seen.__setitem__("keys", output)),
    ]
    with installed_hooks(after=hooks):
        yield seen


def _probabilities(text_encoder: "CLIPTextModel", projections: Mapping[str, Tensor]) -> Tensor:
    """Causal softmax(q k^T / sqrt(d)) of the last layer: (B, H, S, S), rows are queries.

    They are computed here from the projections, because fused attention never forms them, and requesting them of one
    layer alone makes transformers drop the causal mask silently.
    """
    attention = _last_attention(text_encoder)
    heads = (attention.num_heads, attention.head_dim)
    queries, keys = (projections[name].unflatten(-1, heads).transpose(1, 2) for name in ("queries", "keys"))
    scores = queries @ keys.transpose(-1, -2) * attention.scale
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    scores = scores.masked_fill(future, float("-inf"))
    return scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(dim=-1)
