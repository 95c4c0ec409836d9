"""Conditioning: three hooks that apply a persona to a stock diffusion pipeline. No weight is changed.

They are dynamic tokens (a hook on the text encoder's token embedding), separate keys and values (packed `[K|V]` on the
feature axis and split before each cross-attention's `to_k` and `to_v`), and the timestep switch (a hook on the UNet).
A condition may differ between the UNet's cross-attentions, which are counted in the order of a forward pass.
"""

# B batch . S text positions . n placeholder tokens . w text width . H heads . L cross-attentions, or 1 for all alike

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pmagic.bases.loading import Base
from pmagic.engine.attention import cross_attentions
from pmagic.engine.hooks import Hooks, installed_hooks
from pmagic.engine.mapper import keep_length

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection
    from transformers.models.clip.modeling_clip import CLIPAttention, CLIPEncoderLayer

    TextEncoder = CLIPTextModel | CLIPTextModelWithProjection

BYPASS = 0.2  # of NeTI's paper: the length of the bypass vector, as a share of the hidden state's


@dataclass(frozen=True)
class Condition:
    """What cross-attention reads: keys and values, each (B, S, L w), those of cross-attention 0 first.

    pooled: (B, p), the vector of the whole sentence that the UNet of Stable Diffusion XL reads as well, where known.
    """

    keys: Tensor
    values: Tensor
    pooled: Tensor | None = None
    layers: int = 1  # L

    def pack(self) -> Tensor:
        """[K|V] on the feature axis: (B, S, 2 L w)."""
        return torch.cat([self.keys, self.values], dim=-1)

    def for_layers(self, layers: int) -> "Condition":
        """The same condition, written out for each of `layers` cross-attentions if it is one for all of them."""
        if self.layers == layers:
            return self
        if self.layers != 1:
            raise ValueError(f"a condition for {self.layers} cross-attentions is none for {layers}")
        keys, values = (each.repeat(1, 1, layers) for each in (self.keys, self.values))
        return Condition(keys, values, self.pooled, layers)


@dataclass(frozen=True)
class Encoded:
    """A condition, and the last read layer's self-attention probabilities (B, H, S, S) if they were requested."""

    condition: Condition
    attention: Tensor | None


def encode(
    text_encoder: "TextEncoder",
    ids: Tensor,
    placeholder_index: Tensor,
    dynamic: Tensor,
    residual: Tensor | None,
    bypass: Tensor | None = None,
    *,
    with_attention: bool = False,
    penultimate: bool = False,
) -> Encoded:
    """Encode prompts in which dynamic tokens stand for the name (paper, Fig. 3).

    ids: (B, S) token ids; any id may stand at the placeholders. placeholder_index: (B, S), k where dynamic token k
    stands and -1 elsewhere. dynamic: (B, n, w). residual: (B, n, w), mixed into the values alone and *before* the final
    layer norm, at the length of the hidden state there. bypass: (B, n, w), whose direction is added to the hidden state
    h there as BYPASS |h|; zero adds nothing. If both are None, the values are the keys. penultimate: read the hidden
    state before the last layer, without the final layer norm, as Stable Diffusion XL does.
    With tokens for each cross-attention, dynamic, residual and bypass are (B, L, n, w). Each prompt is then encoded L
    times, and no attention is returned.
    """
    if dynamic.ndim == 4:
        batch, layers = dynamic.shape[:2]
        ids, placeholder_index = (each.repeat_interleave(layers, dim=0) for each in (ids, placeholder_index))
        residual, bypass = (None if each is None else each.flatten(0, 1) for each in (residual, bypass))
        both = encode(
            text_encoder, ids, placeholder_index, dynamic.flatten(0, 1), residual, bypass, penultimate=penultimate
        ).condition
        keys, values = (
            each.unflatten(0, (batch, layers)).transpose(1, 2).flatten(2) for each in (both.keys, both.values)
        )
        return Encoded(Condition(keys, values, layers=layers), None)
    layer = -2 if penultimate else -1
    with ExitStack() as hooks:
        hooks.enter_context(dynamic_tokens(text_encoder, placeholder_index, dynamic))
        projections = hooks.enter_context(_projections(text_encoder, layer)) if with_attention else None
        # No attention mask: the stock pipeline passes none, and padding is part of what cross-attention reads.
        output = text_encoder(ids, output_hidden_states=penultimate or residual is not None or bypass is not None)
    keys = values = output.hidden_states[layer] if penultimate else output.last_hidden_state
    if residual is not None or bypass is not None:
        mixed = hidden = output.hidden_states[layer]  # (B, S, w), before the final layer norm
        if residual is not None:
            mixed = keep_length(hidden + _at_placeholders(residual.to(hidden.dtype), placeholder_index), hidden)
        if bypass is not None:
            added = F.normalize(_at_placeholders(bypass.to(hidden.dtype), placeholder_index), dim=-1)
            mixed = mixed + BYPASS * hidden.norm(dim=-1, keepdim=True) * added
        mixed = torch.where((placeholder_index >= 0).unsqueeze(-1), mixed, hidden)
        values = mixed if penultimate else clip_text_model(text_encoder).final_layer_norm(mixed)
    attention = _probabilities(text_encoder, layer, projections) if projections is not None else None
    return Encoded(Condition(keys, values), attention)


@contextmanager
def dynamic_tokens(text_encoder: "TextEncoder", placeholder_index: Tensor, dynamic: Tensor) -> Iterator[None]:
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
    """While inside, every cross-attention of `unet` takes its own keys and values from a packed condition.

    In a condition for all cross-attentions, these are the first and the last w features. An unpacked condition has the
    width that `to_k` expects, so it passes through unchanged. Each projection casts the condition to the type of its
    weights, so that their gradients are summed in the condition's own type.
    """
    with installed_hooks(before=_unpacking(unet)):
        yield


def _unpacking(unet: nn.Module) -> Hooks:
    """The hooks of `packed_kv`. They are always the same objects, for which torch.compile would compile anew."""
    if unet not in _unpacking_hooks:
        layers = list(cross_attentions(unet).values())
        keys = [(each.to_k, partial(_keys_alone, layer, len(layers))) for layer, each in enumerate(layers)]
        values = [(each.to_v, partial(_values_alone, layer, len(layers))) for layer, each in enumerate(layers)]
        _unpacking_hooks[unet] = keys + values
    return _unpacking_hooks[unet]


_unpacking_hooks: WeakKeyDictionary[nn.Module, Hooks] = WeakKeyDictionary()


def keys_in(condition: Tensor, width: int, layer: int, layers: int) -> Tensor:
    """What cross-attention `layer` of `layers` takes its keys from: (B, S, width). condition: packed or not."""
    own = layer * width if condition.shape[-1] == 2 * layers * width else 0
    return condition[..., own : own + width]


def values_in(condition: Tensor, width: int, layer: int, layers: int) -> Tensor:
    """What cross-attention `layer` of `layers` takes its values from: (B, S, width). condition: packed or not."""
    own = (layers + layer) * width if condition.shape[-1] == 2 * layers * width else condition.shape[-1] - width
    return condition[..., own : own + width]


@contextmanager
def timestep_switch(unet: nn.Module, rows: Mapping[float, Tensor], pictures: int) -> Iterator[None]:
    """While inside, the conditional half of every UNet call uses the condition of that call's t.

    rows: packed condition (S, 2 L w) by timestep. pictures: the number of pictures in a batch; with guidance, the UNet
    is called with twice as many rows, the unconditional first.
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


def clip_text_model(text_encoder: "TextEncoder") -> "CLIPTextModel":
    """The module that holds `encoder` and `final_layer_norm`; some transformers classes wrap it in `text_model`."""
    return cast("CLIPTextModel", getattr(text_encoder, "text_model", text_encoder))


def _at_placeholders(vectors: Tensor, placeholder_index: Tensor) -> Tensor:
    """vectors (B, n, w) laid out along text positions: (B, S, w); meaningless where placeholder_index is -1."""
    return torch.take_along_dim(vectors, placeholder_index.clamp(min=0).unsqueeze(-1), dim=1)


def _keys_alone(
    layer: int, layers: int, module: nn.Linear, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    return (keys_in(args[0], module.in_features, layer, layers).to(module.weight.dtype), *args[1:]), kwargs


def _values_alone(
    layer: int, layers: int, module: nn.Linear, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    return (values_in(args[0], module.in_features, layer, layers).to(module.weight.dtype), *args[1:]), kwargs


def _attention_of(text_encoder: "TextEncoder", layer: int) -> "CLIPAttention":
    return cast("CLIPEncoderLayer", clip_text_model(text_encoder).encoder.layers[layer]).self_attn


@contextmanager
def _projections(text_encoder: "TextEncoder", layer: int) -> Iterator[dict[str, Tensor]]:
    """Capture queries and keys of a layer's self-attention, each (B, S, w), as the forward pass computes them."""
    attention = _attention_of(text_encoder, layer)
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


def _probabilities(text_encoder: "TextEncoder", layer: int, projections: Mapping[str, Tensor]) -> Tensor:
    """Causal softmax(q k^T / sqrt(d)) of a layer: (B, H, S, S), rows are queries.

    They are computed here from the projections, because fused attention never forms them, and requesting them of one
    layer alone makes transformers drop the causal mask silently.
    """
    attention = _attention_of(text_encoder, layer)
    heads = (attention.num_heads, attention.head_dim)
    queries, keys = (projections[name].unflatten(-1, heads).transpose(1, 2) for name in ("queries", "keys"))
    scores = queries @ keys.transpose(-1, -2) * attention.scale
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    scores = scores.masked_fill(future, float("-inf"))
    return scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(dim=-1)
