"""Shell completion: personas, bases, recipes and more. It runs at every key press, so it only reads names."""

from pmagic import settings, shelf
from pmagic.library.store import Library


def personas(incomplete: str) -> list[str]:
    candidates = Library(settings.library_dir()).names(incomplete)
    return [name for name in candidates if name.isprintable()]  # a name with a line end would look like two


def bases(incomplete: str) -> list[str]:
    return [name for name in shelf.names("bases.known") if name.startswith(incomplete)]


def pullable(incomplete: str) -> list[str]:
    from pmagic.bases import adapter_files, model_spec

    known = [each.name for each in model_spec.known_bases() if each.repo is not None]
    names = (*known, model_spec.FACES_PACK, model_spec.EVAL_PACK, *adapter_files.KNOWN)
    return [name for name in names if name.startswith(incomplete)]


def adapters(incomplete: str) -> list[str]:
    from pmagic.bases import adapter_files

    return [name for name in adapter_files.KNOWN if name.startswith(incomplete)]


def methods(incomplete: str) -> list[str]:
    return [name for name in shelf.names("methods") if name.startswith(incomplete)]


def recipes(incomplete: str) -> list[str]:
    from pmagic.engine.recipes import RECIPES

    return [name for name in RECIPES if name.startswith(incomplete)]


def datasets(incomplete: str) -> list[str]:
    names = [name.replace("_", "-") for name in shelf.names("datasets")]
    return [name for name in names if name.startswith(incomplete)]


def ablations(incomplete: str) -> list[str]:
    names = [name.replace("_", "-") for name in shelf.names("evaluation.ablations")]
    return [name for name in names if name.startswith(incomplete)]


def config_keys(incomplete: str) -> list[str]:
    return [name for name in settings.VARIABLES if name.startswith(incomplete)]


def removable(incomplete: str) -> list[str]:
    """Models that `models rm` can remove, by hub id or pack name."""
    try:
        candidates = sorted(each.name.replace("--", "/", 1) for each in settings.models_dir().iterdir())
    except FileNotFoundError:
        return []
    return [name for name in candidates if name.startswith(incomplete) and name.isprintable() and name[0] != "."]
