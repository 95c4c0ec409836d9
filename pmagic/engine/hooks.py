"""Hooks: temporary changes of a network, which are always undone.

There are three kinds: hooks around module calls, another value of an attribute, and other weights in place of a
network's own. Each is a context manager that restores everything, also after an error and when nested.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from pmagic.errors import Incompatible

# Pairs of a module and its hook.
Hooks = Iterable[tuple[nn.Module, Callable[..., Any]]]


@contextmanager
def installed_hooks(*, before: Hooks = (), after: Hooks = ()) -> Iterator[None]:
    """While inside, these hooks run before and after each call of their modules.

    before: hook(module, args, kwargs) returns (args, kwargs), or None to leave them. after: hook(module, args, output)
    returns an output, or None to leave it. Several hooks of one module run in the given order, those of an inner
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

    Afterwards an owner has its own attribute again, or no attribute of its own if only its class had one. This is not
    for a network's parameters and modules, which are not plain attributes.
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
    """While inside, the named parameters are replaced by these tensors; afterwards the same objects are back.

    weights: by the names of `network.named_parameters()`, each with its parameter's shape. A tensor may be computed
    from others, and gradients flow to those. Nothing is written into a parameter, so nothing has to be copied back. A
    backward pass that recomputes blocks (`memory.gradient_checkpointing`) must end inside.
    Raises Incompatible, before anything is replaced, for a name that the network lacks or for another shape.
    """
    tables = {name: _table(network, name, tensor) for name, tensor in weights.items()}
    with ExitStack() as restored:
        for name, tensor in weights.items():
            table, own = tables[name], name.rpartition(".")[2]
            # setattr accepts only nn.Parameter, so the table is written. An existing key keeps its position.
            restored.callback(table.__setitem__, own, table[own])
            table[own] = tensor
        yield


def _table(network: nn.Module, name: str, tensor: Tensor) -> dict[str, Any]:
    """The parameter table that holds `name`. Raises Incompatible if there is none or its shape is not `tensor`'s."""
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
