"""Reweighting: differences of a base's weights. Nothing is ever written into the base's own weights (see hooks).

For a weight W0, a difference D is learned. It is small, can be compressed, added to others and scaled.
"""

# o, i output and input features of a weight . r rank

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from pmagic.engine.hooks import installed_hooks
from pmagic.errors import Incompatible, UsageError
from pmagic.persona import WEIGHTS, Persona

PREFIX = WEIGHTS  # of D's tensors in a persona: weights.NAME, or weights.NAME.up and weights.NAME.down
TEXT_PREFIX = "text_weights."  # the same for the text encoder's weights, which only imported files have
UP, DOWN = ".up", ".down"

_ATTENTION = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")
# Sets of a UNet's weights that methods train, each as a predicate of the weight's name.
WEIGHT_SETS: Mapping[str, Callable[[str], bool]] = {
    "cross-kv": lambda name: name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")),
    "cross": lambda name: ".attn2." in name,
    "attention": lambda name: (".attn1." in name or ".attn2." in name) and name.endswith(_ATTENTION),
    "all": lambda name: True,
}


def select_names(unet: nn.Module, which: str) -> list[str]:
    """The names of the weights in set `which`, in the UNet's order. Raises UsageError for an unknown set."""
    if which not in WEIGHT_SETS:
        raise UsageError(f"there is no set of weights {which!r}", f"choose one of: {', '.join(WEIGHT_SETS)}")
    return [name for name, _ in unet.named_parameters() if WEIGHT_SETS[which](name)]


def count_values(shapes: Mapping[str, Sequence[int]], which: str, rank: int = 0) -> int:
    """The number of values in the difference of a set, full (rank 0) or of low rank. shapes: by the weight's name."""
    total = 0
    for name, shape in shapes.items():
        if WEIGHT_SETS[which](name):
            whole = math.prod(shape)
            total += rank * (shape[0] + whole // shape[0]) if _is_factored(shape, rank) else whole
    return total


def tensor_names(shapes: Mapping[str, Sequence[int]], which: str, rank: int = 0) -> list[str]:
    """The names in a persona of the tensors of a set's difference, full (rank 0) or of low rank."""
    ends = {name: (UP, DOWN) if _is_factored(shape, rank) else ("",) for name, shape in shapes.items()}
    return [PREFIX + name + end for name in shapes if WEIGHT_SETS[which](name) for end in ends[name]]


@contextmanager
def without_start_gradient(unet: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """While inside, the outputs of these weights' projections at the first text position have no gradient.

    The start token is in every prompt, so training on it would change every picture (as in Custom Diffusion's code).
    names: of weights; all but those of cross-attention's `to_k` and `to_v` are ignored.
    """

    def cut(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1)

    projections = [name.removesuffix(".weight") for name in names if WEIGHT_SETS["cross-kv"](name)]
    with installed_hooks(after=[(unet.get_submodule(each), cut) for each in projections]):
        yield


class WeightDifference(nn.Module):
    """A trainable D for each of `names`: full if rank is 0, else `up` (o, r) times `down` (r, i), as in LoRA.

    D is zero at first: `down` is normal with a standard deviation of 1 / r, and `up` is zero. D is always full if the
    factors would not have fewer values, as for a norm. A convolution counts as a matrix (o, i k k).
    """

    def __init__(self, network: nn.Module, names: Iterable[str], rank: int = 0, seed: int = 0) -> None:
        super().__init__()
        # A plain dict, so that these are not parameters of the difference.
        self._own = {name: current_weight(network, name) for name in names}
        self.parts = nn.ParameterDict()
        source = torch.Generator().manual_seed(seed)
        for name, own in self._own.items():
            key, like = _key(name), {"dtype": torch.promote_types(own.dtype, torch.float32), "device": own.device}
            if _is_factored(own.shape, rank):
                down = torch.randn(rank, own[0].numel(), generator=source) / rank
                self.parts[_key(name + UP)] = nn.Parameter(torch.zeros(len(own), rank, **like))
                self.parts[_key(name + DOWN)] = nn.Parameter(down.to(**like))
            else:
                self.parts[key] = nn.Parameter(torch.zeros(own.shape, **like))

    def weights(self) -> dict[str, Tensor]:
        """W0 + D by name, in the type of W0; gradients flow to D."""
        return {name: _sum(own, self._difference(name, own)) for name, own in self._own.items()}

    def _difference(self, name: str, own: Tensor) -> Tensor:
        key = _key(name)
        if key in self.parts:
            return self.parts[key]
        return (self.parts[_key(name + UP)] @ self.parts[_key(name + DOWN)]).view(own.shape)

    def tensors(self) -> dict[str, Tensor]:
        """D as it is stored in a persona: float16 tensors by their names in a bundle."""
        return {PREFIX + _name(key): part.detach().half() for key, part in self.parts.items()}


def compress(tensors: Mapping[str, Tensor], rank: int) -> tuple[dict[str, Tensor], float]:
    """A full D with each matrix truncated to `rank` singular values, and the share of |D|^2 that is lost."""
    cut: dict[str, Tensor] = {}
    whole = lost = 0.0
    for name, tensor in tensors.items():
        if not _is_factored(tensor.shape, rank):
            cut[name] = tensor
            whole += tensor.double().square().sum().item()
            continue
        matrix = tensor.flatten(1).double()
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        root = values[:rank].sqrt()
        cut[name + UP] = (left[:, :rank] * root).to(tensor.dtype)
        cut[name + DOWN] = (root[:, None] * right[:rank]).to(tensor.dtype)
        whole += values.square().sum().item()
        lost += values[rank:].square().sum().item()
    return cut, lost / whole if whole else 0.0


def sum_weights(
    network: nn.Module, personas: Sequence[Mapping[str, np.ndarray]], *, prefix: str = PREFIX
) -> dict[str, Tensor]:
    """W0 + the sum of the personas' D, by name. Equal differences are added once.

    personas: the tensors of each. prefix: of the tensors of this network.
    Raises Incompatible if a difference does not fit the network.
    """
    total: dict[str, Tensor] = {}
    seen: list[Mapping[str, np.ndarray]] = []
    for tensors in personas:
        own = _own_weights(tensors, prefix)
        if any(same_weights(own, other, prefix) for other in seen):  # learned together, with one common difference
            continue
        seen.append(own)
        for name, difference in read_differences(network, own, prefix).items():
            total[name] = total[name] + difference if name in total else difference
    return {name: _sum(current_weight(network, name), difference) for name, difference in total.items()}


def with_strength(persona: Persona, strength: float) -> Persona:
    """The persona with `strength` times its differences: 0 leaves the base's weights, 1 changes nothing."""
    if strength == 1:
        return persona
    scaled = {
        name: np.float32(strength) * array.astype(np.float32)
        for name, array in persona.tensors.items()
        if name.startswith((PREFIX, TEXT_PREFIX)) and not name.endswith(DOWN)  # of two factors, one is scaled
    }
    return replace(persona, tensors={**persona.tensors, **scaled})


def read_differences(network: nn.Module, tensors: Mapping[str, np.ndarray], prefix: str = PREFIX) -> dict[str, Tensor]:
    """D by the weight's name, from a persona's tensors, full or factored.

    Raises Incompatible if a difference does not fit the network.
    """
    found: dict[str, Tensor] = {}
    for full, array in tensors.items():
        if not full.startswith(prefix) or full.endswith(DOWN):
            continue
        low = full.endswith(UP)
        name = full.removeprefix(prefix).removesuffix(UP if low else "")
        own = current_weight(network, name)
        like = {"dtype": torch.promote_types(own.dtype, torch.float32), "device": own.device}
        difference = torch.as_tensor(array).to(**like)
        if low:
            down = tensors.get(f"{prefix}{name}{DOWN}")
            if down is None or difference.ndim != 2 or down.ndim != 2 or difference.shape[1] != down.shape[0]:
                raise Incompatible(f"the two factors of {name} do not fit one another", "learn it again")
            difference = difference @ torch.as_tensor(down).to(**like)
        if difference.numel() != own.numel():
            raise Incompatible(
                f"the difference of {name} has {difference.numel()} values, the base's weight {own.numel()}",
                "use the base that it was learned on",
            )
        found[name] = difference.reshape(own.shape)
    return found


def _is_factored(shape: Sequence[int], rank: int) -> bool:
    """Whether a weight's D is stored as two factors of that rank: only if they have fewer values than the full D."""
    return rank > 0 and len(shape) > 1 and rank * (shape[0] + math.prod(shape[1:])) < math.prod(shape)


def _sum(own: Tensor, difference: Tensor) -> Tensor:
    """own + difference, summed in at least float32: one bfloat16 step of a weight is many updates of a difference."""
    return (own.detach().to(difference.dtype) + difference).to(own.dtype)


def current_weight(network: nn.Module, name: str) -> Tensor:
    """The current weight of that name, a plain tensor inside another `exchanged_parameters`. Raises Incompatible."""
    path, _, leaf = name.rpartition(".")
    try:
        own = network.get_submodule(path)._parameters[leaf]
    except (AttributeError, KeyError):
        own = None
    if own is None:
        raise Incompatible(f"the base has no weight {name!r}", "use the base that it was learned on")
    return own


def same_weights(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], prefix: str = PREFIX) -> bool:
    """Whether two personas' tensors hold the same differences."""
    one, other = (_own_weights(each, prefix) for each in (one, other))
    return one.keys() == other.keys() and all(np.array_equal(array, other[name]) for name, array in one.items())


def _own_weights(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name: array for name, array in tensors.items() if name.startswith(prefix)}


def _key(name: str) -> str:
    return name.replace(".", "/")  # a parameter's own name must not contain a dot


def _name(key: str) -> str:
    return key.replace("/", ".")
