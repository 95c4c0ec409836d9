"""What the shell may complete: kept personas, known bases, recipes. Runs at every key press, so it reads names only."""

from pmagic import settings, shelf
from pmagic.library.store import Library


def personas(incomplete: str) -> list[str]:
    return [name for name in Library(settings.library_dir()).names() if name.startswith(incomplete)]


def bases(incomplete: str) -> list[str]:
    return [name for name in shelf.names("bases.known") if name.startswith(incomplete)]


def methods(incomplete: str) -> list[str]:
    return [name for name in shelf.names("methods") if name.startswith(incomplete)]


def recipes(incomplete: str) -> list[str]:
    from pmagic.engine.recipes import RECIPES

    return [name for name in RECIPES if name.startswith(incomplete)]


def datasets(incomplete: str) -> list[str]:
    names = [name.replace("_", "-") for name in shelf.names("datasets")]
    return [name for name in names if name.startswith(incomplete)]
