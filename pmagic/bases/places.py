"""Where the local folders lie that personas were learned on, by the bases' fingerprints: on this machine alone.

A persona may travel and may come from a stranger, so it holds no path, and what it calls its base is never opened.
"""

from pathlib import Path

from pmagic import settings
from pmagic.bases import card
from pmagic.bases.card import Card
from pmagic.errors import UsageProblem
from pmagic.library import durable


def remember(base: Card, fingerprint: str) -> None:
    """A local folder's place, for `base_of` to find; every other base is found by its name.

    Raises StorageFailed, and UsageProblem for a path that is not text.
    """
    if base.name != str(base.folder) or _places().get(fingerprint) == base.name:
        return
    import filelock
    import tomli_w

    try:
        base.name.encode()
    except UnicodeEncodeError as error:
        raise UsageProblem(f"the path {base.name!r} is not valid text", "rename the folder") from error
    path = settings.places_file()
    with durable.storing(f"the place of {base.folder}"):
        durable.make_folder(path.parent)
        with filelock.FileLock(path.with_name(f".{path.name}.lock"), mode=durable.FILE_MODE):
            durable.replace_file(path, tomli_w.dumps({**_places(), fingerprint: base.name}).encode())


def base_of(name: str, fingerprint: str) -> Card:
    """The base that a persona was learned on: a remembered folder that is still there, or what the name says.

    Raises NotFound.
    """
    place = _places().get(fingerprint)
    if place is not None and (Path(place) / "model_index.json").is_file():
        return card.find(place)
    return card.named(name)


def _places() -> dict[str, str]:
    path = settings.places_file()
    try:
        found = settings.parsed_toml(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageProblem(
            f"{path} cannot be read: {error}", "correct the file, or remove it and give --base"
        ) from error
    return {fingerprint: place for fingerprint, place in found.items() if isinstance(place, str)}
