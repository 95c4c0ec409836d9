"""Hooks: what is put into a network for a while, and always taken out again.

Three ways: hooks around the calls of modules, another value of an attribute, and other weights in the place of a
network's own. Each is a context that leaves everything as it found it, also after an error and inside of another one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from pmagic.errors import Incompatible

# Which hook belongs to which module.
Hooks = Iterable[tuple[nn.Module, Callable[..., Any]]]


@contextmanager
def installed_hooks(*, before: Hooks = (), after: Hooks = ()) -> Iterator[None]:
    """While inside, these hooks run before and after each call of their modules.

    before: hook(module, args, kwargs) returns (args, kwargs), or None to leave them. after: hook(module, args, output)
    returns an output, or None to leave it. Several hooks of one module run in the order given, those of an inner
    context last.
    """
    with ExitStack() as handles:
        for module, hook in before:
            handles.enter_context(module.register_forward_pre_hook(hook, with_kwargs=True))
        for module, hook in after:
            handles.enter_context(module.register_forward_hook(hook))
        yield


@contextmanager
def exchanged_attributes(owners: Iterable[object], name: str, value: object) -> Iterator[None]:
    """While inside, the attribute `name` of each owner is `value`.

    Afterwards an owner has its own attribute again, or none of its own where only its class had one. Not for
    parameters and modules of a network, which are no plain attributes.
    """
    with ExitStack() as restored:
        for owner in owners:
            if name in vars(owner):
                restored.callback(setattr, owner, name, vars(owner)[name])
            else:
                restored.callback(delattr, owner, name)
            setattr(owner, name, value)
        yield


@contextmanager
def exchanged_parameters(network: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """While inside, the parameters of these names are these tensors; afterwards they are the same objects as before.

    weights: by the names of `network.named_parameters()`, each of its parameter's shape. A tensor may be computed from
    others, and the gradient reaches those. Nothing is written into a parameter, so nothing has to be copied back. A
    backward pass that computes blocks again (`memory.gradient_checkpointing`) must end inside.
    Raises Incompatible before anything is exchanged, for a name that the network lacks or another shape.
    """
    tables = {name: _table(network, name, tensor) for name, tensor in weights.items()}
    with ExitStack() as restored:
        for name, tensor in weights.items():
            table, own = tables[name], name.rpartition(".")[2]
            # Not by setattr, which takes nothing but leaves of a graph. A key that is there keeps its place.
            restored.callback(table.__setitem__, own, table[own])
            table[own] = tensor
        yield


def _table(network: nn.Module, name: str, tensor: Tensor) -> dict[str, Any]:
    """Where the parameter of that name stands, which has the shape of `tensor`."""
    path, _, own = name.rpartition(".")
    try:
        table = network.get_submodule(path)._parameters
    except AttributeError:
        table = {}
    there = table.get(own)
    if there is None or there.shape != tensor.shape:
        shape = "no such weight" if there is None else f"a weight of {list(there.shape)} there"
        raise Incompatible(
            f"the weights are of another network: {name!r} of {list(tensor.shape)}, but this one has {shape}",
            "use them with the base that they were learned on",
        )
    return table
