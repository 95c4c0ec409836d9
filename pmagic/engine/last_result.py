"""The last result of an expensive computation on a network, kept while all that it came from is the same."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from torch import nn

Result = TypeVar("Result")


class LastResult(Generic[Result]):
    """One result per network. It is computed again if any of the objects that it came from is another object."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[nn.Module, tuple[list[object], tuple[str, ...], Result]] = WeakKeyDictionary()

    def get(self, network: nn.Module, inputs: Sequence[object], make: Callable[[], Result]) -> Result:
        """The result for the network's parameters as they are now, exchanged ones included, and `inputs`.

        Nothing may write into the inputs between two calls; a network that moves to another device or type is seen.
        """
        parameters = list(network.parameters())
        objects = [*parameters, *inputs]
        places = tuple(sorted({f"{each.device} {each.dtype}" for each in parameters}))
        kept = self._kept.get(network)
        if kept is not None and kept[1] == places and list(map(id, kept[0])) == list(map(id, objects)):
            return kept[2]
        result = make()
        self._kept[network] = (objects, places, result)
        return result
