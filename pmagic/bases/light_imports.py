"""Imports diffusers and transformers without what neither drawing nor learning calls.

As soon as they are imported, the two libraries import torch's compiler, torch's distributed tensors, scipy and more,
which takes longer than all the rest. A command of this program leaves these out; it gets the real compiler if a library
asks for more of it than to be left alone. In a notebook nothing is changed, because other code there may need all this.
"""

import functools
import importlib
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

from pmagic.bases.offline import import_http_client

_COMPILER = "torch._dynamo"
_INDEXING = "torch._dynamo._trace_wrapped_higher_order_op"
_SYMBOLS = "torch.fx.experimental.symbolic_shapes"
_UNUSED = ("scipy", "peft", "accelerate", "jinja2", "sklearn", "pandas")  # optional for both libraries
_CLASSES = {
    "diffusers": (
        "StableDiffusionPipeline",
        "StableDiffusionInpaintPipeline",
        "UNet2DConditionModel",
        "AutoencoderKL",
        "DPMSolverMultistepScheduler",
    ),
    "transformers": ("CLIPTextModel", "CLIPTextConfig", "CLIPTokenizer", "CLIPModel", "CLIPSegForImageSegmentation"),
}
# What torch asks about the sizes of a tensor without numbers, and the answers where the sizes are known.
_OF_NUMBERS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("expect_true", "guard_or_false", "guard_or_true", "guard_size_oblivious"), bool),
    "is_nested_int": lambda size: False,
    "sym_eq": operator.eq,
}

_enabled = False


def enable(on: bool = True) -> None:
    """Whether `import_models` leaves out what this program does not call. Only for a process that runs nothing else."""
    global _enabled
    _enabled = on


def import_models() -> None:
    """Import the classes of diffusers and transformers that all tasks use."""
    import_http_client()
    if not _enabled or "diffusers" in sys.modules or "transformers" in sys.modules:
        return
    _put_stand_ins()
    with _as_not_installed():
        for library, names in _CLASSES.items():
            module = importlib.import_module(library)
            for name in names:
                getattr(module, name)  # both libraries import a class when it is first asked for


@contextmanager
def _as_not_installed() -> Iterator[None]:
    """While inside, libraries that look for an unused package do not find it; `import` itself does."""
    import importlib.metadata
    import importlib.util

    import torch

    find = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> Any:
        return None if name in _UNUSED else find(name, package)

    cached = functools.cache(importlib.metadata.packages_distributions)  # both libraries read all of them
    with ExitStack() as restored:
        for owner, name, value in (
            (importlib.util, "find_spec", find_spec),
            (importlib.metadata, "packages_distributions", cached),
            (torch.distributed, "is_available", lambda: False),
        ):
            restored.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield


def _put_stand_ins() -> None:
    """What the libraries, and torch itself, ask of the compiler while nothing is compiled."""

    def ignore(fn: Any = None, *args: Any, **kwargs: Any) -> Any:
        return fn if fn is not None else ignore

    class OptimizedModule:
        """No module is one: nothing is compiled."""

    class TransformGetItemToIndex:
        """transformers calls it only to make a mask with `vmap`."""

        def __new__(cls, *args: Any) -> Any:
            return _import_real(_INDEXING).TransformGetItemToIndex(*args)

    def of_numbers(name: str, answer: Callable[..., Any], *given: Any) -> Any:
        """The answer for numbers; a symbol, of a size that is not known yet, needs the real function."""
        sizes = [size for each in given for size in (each if isinstance(each, tuple) else (each,))]
        plain = all(type(size) in (bool, int) for size in sizes)
        return answer(*given) if plain else getattr(_import_real(_SYMBOLS), name)(*given)

    known = {
        _COMPILER: {
            "allow_in_graph": ignore,
            "assume_constant_result": ignore,
            "disable": ignore,
            "eval_frame": SimpleNamespace(OptimizedModule=OptimizedModule),
        },
        _INDEXING: {"TransformGetItemToIndex": TransformGetItemToIndex},
        _SYMBOLS: {name: functools.partial(of_numbers, name, answer) for name, answer in _OF_NUMBERS.items()},
    }
    import torch

    if not any(name in sys.modules for name in known):
        sys.modules.update({name: _StandIn(name, names) for name, names in known.items()})
        torch._dynamo = sys.modules[_COMPILER]  # `hasattr(torch, "_dynamo")` would import it


class _StandIn(ModuleType):
    """Stands for a module that is not imported. For any name that it does not know, it imports the real one."""

    def __init__(self, name: str, known: dict[str, Any]) -> None:
        super().__init__(name)
        self.__path__ = _Path(name)
        vars(self).update(known)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # `inspect` asks every module for its file
            raise AttributeError(name)
        return getattr(_import_real(self.__name__), name)


class _Path(list[str]):
    """Where submodules are: looking for one imports the real package."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __iter__(self) -> Iterator[str]:
        return iter(getattr(_import_real(self.name), "__path__", ()))


def _import_real(name: str) -> ModuleType:
    import torch

    for each in [name] if name == _SYMBOLS else [_COMPILER, _INDEXING]:
        if isinstance(sys.modules.get(each), _StandIn):
            del sys.modules[each]
    if isinstance(vars(torch).get("_dynamo"), _StandIn) and _COMPILER not in sys.modules:
        del torch._dynamo
    return importlib.import_module(name)
