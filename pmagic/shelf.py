"""A shelf is a package whose every module is one thing; the module's name is the thing's public name."""

import importlib
import pkgutil
from types import ModuleType

from pmagic.errors import NotFound


def names(shelf: str) -> list[str]:
    """The public names on `pmagic.<shelf>`, sorted, without importing any of them."""
    package = importlib.import_module(f"pmagic.{shelf}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def take(shelf: str, name: str) -> ModuleType:
    """The module `pmagic.<shelf>.<name>`; `NotFound` lists what there is."""
    if name not in names(shelf):
        raise NotFound(f"there is no {name!r} among the {shelf}", f"choose one of: {', '.join(names(shelf))}")
    return importlib.import_module(f"pmagic.{shelf}.{name}")
