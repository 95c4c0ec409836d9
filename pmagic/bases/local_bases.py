"""Remembers, on this machine only, the local base folders on which personas were learned, by the bases' fingerprints.

A persona may be passed on and may come from a stranger: it holds no path, and its base's name is never opened as one.
"""

from pathlib import Path

from pmagic import atomic_io, settings
from pmagic.bases import model_spec
from pmagic.bases.model_spec import ModelSpec
from pmagic.errors import UsageError


def remember(base: ModelSpec, fingerprint: str) -> None:
    """Records a local folder for `base_of`; every other base is found by its name.

    Raises StorageFailed, and UsageError for a path that is not text.
    """
    if base.name != str(base.folder) or _places().get(fingerprint) == base.name:
        return
    import filelock
    import tomli_w

    try:
        base.name.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"the path {base.name!r} is not valid text", "rename the folder") from error
    path = settings.places_file()
    with atomic_io.storing(f"the place of {base.folder}"):
        atomic_io.make_folder(path.parent)
        with filelock.FileLock(path.with_name(f".{path.name}.lock"), mode=atomic_io.FILE_MODE):
            atomic_io.replace_file(path, tomli_w.dumps({**_places(), fingerprint: base.name}).encode())


def base_of(name: str, fingerprint: str) -> ModelSpec:
    """The base that a persona was learned on: the recorded folder if it still exists, otherwise the base of that name.

    Raises NotFound.
    """
    place = _places().get(fingerprint)
    if place is not None and (Path(place) / "model_index.json").is_file():
        return model_spec.resolve(place)
    return model_spec.resolve_name(name)


def _places() -> dict[str, str]:
    path = settings.places_file()
    try:
        table = settings.read_toml(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}", "correct the file, or remove it and give --base") from error
    return {fingerprint: place for fingerprint, place in table.items() if isinstance(place, str)}
