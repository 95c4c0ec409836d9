"""Rank-one edits of cross-attention (Perfusion, Tewel et al. 2023), gated by how much of a concept is in the input.

For a projection W, an encoding e of the text and a concept's encoding i with C the covariance of usual encodings:

    s = (e' C^-1 i) / (i' C^-1 i)
    output = W e - s W i + sigmoid((s - beta) / tau) o

Where e is i, the output is the target o; where e has nothing of i, it is the base's own. No weight changes: the edit is
added to the outputs of `to_k` and `to_v`. For several concepts, the span of all i is taken out of e at once, while each
gate follows from its own s.
"""

# B batch . S text positions . w text width . o output features of a projection . k concepts . N rows of encodings

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pmagic.engine.attention import CrossAttention, cross_attentions
from pmagic.engine.conditioning import keys_in, values_in
from pmagic.engine.hooks import installed_hooks

RIDGE = 1e-6  # relative to the mean eigenvalue of C, which few sentences would leave singular


def inverse_covariance(rows: Tensor) -> Tensor:
    """C^-1 (w, w) in float64, C being the uncentered covariance of encodings (N, w), with a small ridge."""
    rows = rows.double().cpu()
    covariance = rows.T @ rows / len(rows)
    ridge = RIDGE * covariance.trace() / len(covariance)
    return torch.linalg.inv(covariance + ridge * torch.eye(len(covariance), dtype=covariance.dtype))


def cached_inverse(text_encoder: nn.Module, read_rows: Callable[[], Tensor]) -> Tensor:
    """`inverse_covariance` of a text encoder's rows, which are read and inverted only once while it is in memory."""
    if text_encoder not in _inverses:
        _inverses[text_encoder] = inverse_covariance(read_rows())
    return _inverses[text_encoder]


_inverses: WeakKeyDictionary[nn.Module, Tensor] = WeakKeyDictionary()


class Concepts:
    """Encodings i of k concepts with their duals C^-1 i, (k, w) each, and their gates beta and tau, (k, 2)."""

    def __init__(self, encodings: Tensor, duals: Tensor, gates: Tensor) -> None:
        self.encodings, self.duals, self.gates = encodings, duals, gates
        gram = duals @ encodings.T  # (k, k), i' C^-1 i
        self.own = gram.diagonal()
        # One concept needs no inverse, which a CUDA graph could not hold.
        self.inverse = None if len(gram) == 1 else torch.linalg.pinv(gram.double(), hermitian=False).to(gram)

    def measure(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """How much of the concepts is taken out of encodings e (..., w), and how far their gates are open: (..., k)."""
        scores = e.to(self.duals.dtype) @ self.duals.T
        shares = scores / self.own
        beta, tau = self.gates.T
        taken = shares if self.inverse is None else scores @ self.inverse.T
        return taken, torch.sigmoid((shares - beta) / tau)

    def correction(self, e: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """What the edit adds to W e, (..., o). weight: W (o, w). targets: o of each concept, (k, o)."""
        taken, opened = self.measure(e)
        return opened @ targets - taken @ (self.encodings @ weight.to(self.encodings.dtype).T)


@contextmanager
def rank_one_edits(
    unet: nn.Module, concepts: Concepts, keys: Sequence[Tensor], values: Sequence[Tensor]
) -> Iterator[None]:
    """While inside, every cross-attention's keys and values are edited.

    Gradients flow to the condition and the targets. A backward pass that recomputes blocks must end inside.
    keys, values: the targets (k, o) of each cross-attention, in the order of a forward pass.
    """
    layers = list(cross_attentions(unet).values())
    before: list[tuple[nn.Module, Callable[..., Any]]] = []
    after: list[tuple[nn.Module, Callable[..., Any]]] = []
    for number, layer in enumerate(layers):
        look, add_to_keys, add_to_values = _edit(concepts, layer, number, len(layers), keys[number], values[number])
        before.append((cast(nn.Module, layer), look))
        after += [(layer.to_k, add_to_keys), (layer.to_v, add_to_values)]
    with installed_hooks(before=before, after=after):
        yield


def _edit(
    concepts: Concepts, attention: CrossAttention, number: int, layers: int, keys: Tensor, values: Tensor
) -> tuple[Callable[..., Any], ...]:
    """Hooks: before the attention, which still has the condition in full precision, and after `to_k` and `to_v`."""
    corrections: dict[str, Tensor] = {}

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        condition, width = kwargs["encoder_hidden_states"], attention.to_k.in_features
        # C^-1 magnifies differences that half precision would round away.
        with torch.autocast(condition.device.type, enabled=False):
            e = keys_in(condition, width, number, layers)
            corrections["keys"] = concepts.correction(e, attention.to_k.weight, keys)
            e = values_in(condition, width, number, layers)
            corrections["values"] = concepts.correction(e, attention.to_v.weight, values)

    def add_to_keys(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output + corrections.pop("keys").to(output.dtype)

    def add_to_values(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output + corrections.pop("values").to(output.dtype)

    return look, add_to_keys, add_to_values
