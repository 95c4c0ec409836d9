"""The name of a base model, the place of its diffusers folder and its own defaults.

It knows nothing about the network (see `fetching`) or torch (see `loading`).
"""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pmagic import settings, shelf
from pmagic.base_names import HUB_ID, base_name
from pmagic.bases import kinds
from pmagic.errors import Incompatible, NotFound, WeightsMissing

CLIP_REPO = "openai/clip-vit-base-patch32"  # image embedding, and text scores
CLIPSEG_REPO = "CIDAS/clipseg-rd64-refined"  # masks for a word
# insightface's packs: one for finding faces and for the identity loss, and another for evaluation only.
FACES_PACK, EVAL_PACK = "buffalo_l", "antelopev2"
FOR_PHOTOGRAPHS = "sd14"  # the base that the paper uses
# Keys of [observers] in pmagic.toml, and the field of ModelSpec that each sets.
OBSERVERS = {"clip": "clip", "clipseg": "clipseg", "faces": "faces", "judge": "eval_recognizer"}
# Downloads besides bases, in bytes: the hub's observers, and the contents of the archives of insightface's packs.
HUB_OBSERVERS = {CLIP_REPO: 605_000_000, CLIPSEG_REPO: 603_000_000}
PACKS = {FACES_PACK: 326_000_000, EVAL_PACK: 407_000_000}


@dataclass(frozen=True)
class Domain:
    """The kind of pictures that a base knows, where it does not know all."""

    what: str  # in words, such as "drawn faces"
    error: float  # the largest denoising error of such pictures
    samples: tuple[Path, ...]  # example pictures that are shipped with the base


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One base model. A pure value: creating one touches neither the network nor the weights.

    clip, clipseg, faces, eval_recognizer: the observers' folders, or their hub ids and pack names while they are not
    here.
    defaults: <folder>/pmagic.toml parsed ([learn], [render], [observers], [knows]), empty without one.
    """

    name: str  # "mini", "sd14", "owner/repo" or an absolute folder
    folder: Path | None  # its diffusers folder, None when it is not on this machine
    repo: str | None  # hub id, None for folders
    clip: str | Path
    size_gb: float | None  # of the download; None when only the hub knows
    licence: str
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    clipseg: str | Path = CLIPSEG_REPO  # finds the mask of a word
    faces: str | Path = FACES_PACK  # finds faces, and embeds them for the identity loss
    eval_recognizer: str | Path = EVAL_PACK  # embeds faces, for evaluation only

    @property
    def local_folder(self) -> Path:
        """Its diffusers folder, of a base that `require_weights` has let through."""
        assert self.folder is not None
        return self.folder

    @property
    def domain(self) -> Domain | None:
        """The pictures that this base knows, from pmagic.toml; None for a base that knows photographs of every kind."""
        knows = self.defaults.get("knows")
        if not knows or self.folder is None:
            return None
        place = knows.get("samples")
        samples = () if place is None else tuple(sorted((self.folder / place).resolve().glob("*.png")))
        return Domain(knows["what"], knows["error"], samples)

    @property
    def title(self) -> str:
        """What personas and pictures call it: they may travel, so a folder without its path."""
        return base_name(self.name) or "folder"

    @property
    def download_gb(self) -> float | None:
        """The size of everything that learning people needs and that is not here; None where only the hub knows."""
        if self.folder is None and self.size_gb is None:
            return None
        observers = (each for each in (self.clip, self.clipseg, self.faces) if isinstance(each, str))
        besides = sum((HUB_OBSERVERS | PACKS).get(each, 0) for each in observers) / 1e9
        return besides + (self.size_gb or 0 if self.folder is None else 0)


def known_bases() -> list[ModelSpec]:
    """The bases with a short name, each as it is on this machine."""
    return [resolve(name) for name in shelf.names("bases.known")]


def resolve(name: str) -> ModelSpec:
    """The spec of a short name, a hub id (owner/repo) or a local diffusers folder; it never uses the network.

    Raises NotFound, with a suggestion where a known name is similar, and Incompatible for a file.
    """
    if name and name not in shelf.names("bases.known"):
        path = settings.expand_path(name)
        if _is_folder(path):
            return _spec_of_folder(path.resolve())
        if os.path.lexists(path):
            raise Incompatible(
                f"{name} is {kinds.file_kind(path)}, and a base is a diffusers folder",
                f"give the folder that holds {kinds.INDEX}; `pmagic models list` shows bases with a short name",
            )
        if "/" in name and not HUB_ID.fullmatch(name):
            raise NotFound(f"there is no base {name!r}: there is no such folder", _nearby(path))
    return resolve_name(name)


def resolve_name(name: str) -> ModelSpec:
    """As `resolve`, for short names and hub ids only: a folder of that name is ignored."""
    specs = {each: shelf.take("bases.known", each).SPEC for each in shelf.names("bases.known")}
    if name in specs:
        return _locate(specs[name])
    if HUB_ID.fullmatch(name):
        for spec in specs.values():
            if spec.repo is not None and spec.repo.lower() == name.lower():
                return _locate(spec)
        licence = f"see https://huggingface.co/{name}"
        return _locate(ModelSpec(name=name, folder=None, repo=name, clip=CLIP_REPO, size_gb=None, licence=licence))
    close = difflib.get_close_matches(name.lower(), specs, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise NotFound(
        f"there is no base {name!r}",
        f"{hint}--base takes {', '.join(specs)}, a hub id (owner/repo) or a diffusers folder",
    )


def way_to_photographs() -> str:
    """The commands that fetch a base for photographs, and the pack that finds faces in them."""
    return (
        f"for photographs fetch another base, `pmagic models pull {FOR_PHOTOGRAPHS}`, and the pack that finds faces in "
        f"them, `pmagic models pull {FACES_PACK}` (for non-commercial use), then add `--base {FOR_PHOTOGRAPHS}`"
    )


def require_weights(spec: ModelSpec) -> ModelSpec:
    """The same spec, if everything that learning and rendering open is on this machine; otherwise WeightsMissing."""
    if spec.folder is None:
        raise _not_here(spec)
    lacks = _lacks(spec)
    if lacks:
        damaged = f"the base {spec.name!r} cannot be opened: {lacks}"
        if spec.repo is None:
            raise WeightsMissing(
                damaged,
                "restore its files, let diffusers save it as safetensors, or use another base: `pmagic models list` "
                "shows which are here",
            )
        raise WeightsMissing(damaged, _pull_again(spec.name))
    if not isinstance(spec.clip, Path):
        raise WeightsMissing(
            f"the observer {spec.clip}, which reads the photo, is not on this machine",
            f"fetch what learning needs: {pulls(spec)}",
        )
    if not _holds_weights(spec.clip):
        raise WeightsMissing(f"the observer in {spec.clip} holds no safetensors weights", suggest_restore(spec.clip))
    return spec


def missing_parts(spec: ModelSpec) -> list[str]:
    """The missing parts of the base and its observer, in words; [] when the base can be loaded.

    Raises Incompatible for another kind of model, and for a folder with Python code, because a base is only data.
    """
    lacks = "the weights" if spec.folder is None else _lacks(spec)
    missing = [lacks] if lacks else []
    if not isinstance(spec.clip, Path):
        missing.append(f"the observer {spec.clip}")
    elif not _holds_weights(spec.clip):
        missing.append(f"the observer in {spec.clip}")
    return missing


def clip_folder(spec: ModelSpec) -> Path:
    """Where the base's CLIP lies. Raises WeightsMissing where it is not on this machine."""
    if not isinstance(spec.clip, Path):
        raise WeightsMissing(
            f"the observer {spec.clip} is not on this machine", f"fetch it with `pmagic models pull {spec.clip}`"
        )
    return spec.clip


def suggest_restore(folder: Path) -> str:
    """The next step for a damaged observer or pack: pull it again if it was pulled."""
    if folder.parent != settings.models_dir():
        return f"restore the files in {folder}"
    name = folder.name.replace("--", "/", 1)
    return _pull_again(name) if folder.is_dir() else f"fetch it with `pmagic models pull {name}`"


def place_of(repo: str) -> Path:
    """The folder of the hub's `owner/repo`, or of a face pack, once it is pulled."""
    return settings.models_dir() / repo.replace("/", "--")


def _lacks(spec: ModelSpec) -> str:
    """kinds.lacks_of the base's folder. Raises Incompatible for another kind of model, and for code."""
    assert spec.folder is not None  # only called for a base that is here
    code = next(spec.folder.rglob("*.py"), None)
    if code is not None:
        raise Incompatible(f"the base folder {spec.folder} holds Python code ({code.name})", "remove it first")
    kinds.require_stable_diffusion(kinds.read_index(spec.folder), f"the base {spec.name!r}")
    return kinds.lacks_of(spec.folder)


def _holds_weights(folder: Path) -> bool:
    return any(each.is_file() for each in folder.glob("*.safetensors"))


def _not_here(spec: ModelSpec) -> WeightsMissing:
    """Names everything that learning needs and that is not here, so that nobody comes back for the next part."""
    size = "" if spec.download_gb is None else f"; with all that learning needs it is {spec.download_gb:.1f} GB"
    called = spec.name if spec.name == spec.repo else f"{spec.name!r} ({spec.repo})"
    near = ""
    if spec.name == spec.repo and Path(spec.name).parent.is_dir():  # owner/repo, and here is a folder `owner`
        near = f"for a folder of yours: {_nearby(Path(spec.name))}; from the hub "
    return WeightsMissing(
        f"the base {called} is not on this machine{size}",
        f"{near}fetch it with {pulls(spec)}, or use `--base mini`, which works at once",
    )


def pulls(spec: ModelSpec) -> str:
    """The commands that fetch a base and everything else that learning people on it needs."""
    names = (
        [spec.name] if spec.repo is not None else [each for each in (spec.clip, spec.clipseg) if each in HUB_OBSERVERS]
    )
    return " and ".join(f"`pmagic models pull {name}`" for name in (*names, spec.faces) if isinstance(name, str))


def _pull_again(name: str) -> str:
    return f"remove it with `pmagic models rm {name}`, then fetch it with `pmagic models pull {name}`"


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except PermissionError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}", "correct the permissions above it") from error


def _nearby(path: Path) -> str:
    """A hint for a folder that does not exist: a similar name beside it, or how far its path exists.

    It has names only and no path, because it goes into reports.
    """
    path = path.absolute()
    parent = next(each for each in path.parents if each.is_dir())
    if parent != path.parent:
        return f"check the path: it is right up to {parent.name or parent.anchor!r}, in which there is no such folder"
    try:
        names = sorted(each.name for each in parent.iterdir() if (each / kinds.INDEX).is_file())
    except OSError:
        names = []
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}, which lies beside it?"
    return (
        f"choose one of the diffusers folders beside it: {', '.join(names[:6])}"
        if names
        else "check the path: no diffusers folder lies beside it"
    )


def _locate(spec: ModelSpec) -> ModelSpec:
    """The spec with this machine's folder, observers and defaults filled in."""
    folder = spec.folder if spec.repo is None else place_of(spec.repo)
    if folder is None or not (folder / kinds.INDEX).is_file():
        folder = None
    defaults = _read_defaults(folder)
    return replace(spec, folder=folder, defaults=defaults, **_observers(spec, folder, defaults))


def _spec_of_folder(folder: Path) -> ModelSpec:
    if not (folder / kinds.INDEX).is_file():
        raise NotFound(
            f"{folder} is not a diffusers folder: {kinds.folder_kind(folder)}",
            "give the folder that holds model_index.json, unet, vae, text_encoder and tokenizer",
        )
    defaults = _read_defaults(folder)
    plain = ModelSpec(
        name=str(folder), folder=folder, repo=None, clip=CLIP_REPO, size_gb=None, licence="the folder's own"
    )
    return replace(plain, defaults=defaults, **_observers(plain, folder, defaults))


def _observers(spec: ModelSpec, folder: Path | None, defaults: Mapping[str, Any]) -> dict[str, str | Path]:
    """Each observer's folder where there is one: from pmagic.toml, the spec itself, or a pull. Otherwise its name."""
    own = defaults.get("observers", {}) if folder is not None else {}
    places: dict[str, str | Path] = {}
    for observer, name in OBSERVERS.items():
        place = getattr(spec, name)
        if observer in own:
            place = (folder / own[observer]).resolve()
        elif isinstance(place, str) and place_of(place).is_dir():
            place = place_of(place)
        places[name] = place
    return places


def _read_defaults(folder: Path | None) -> Mapping[str, Any]:
    if folder is None or not (folder / "pmagic.toml").is_file():
        return MappingProxyType({})
    path = folder / "pmagic.toml"
    try:
        defaults = settings.read_toml(path)
    except ValueError as error:
        raise Incompatible(f"{path} is not valid TOML: {error}", "correct the file, or remove it") from error
    for table in ("learn", "render", "observers", "knows"):
        if not isinstance(defaults.get(table, {}), dict):
            raise Incompatible(f"{path}: {table} must be a table", f"write [{table}] above its values")
    for observer, place in defaults.get("observers", {}).items():
        if observer not in OBSERVERS or not isinstance(place, str) or "\0" in place:
            raise Incompatible(
                f"{path}: [observers] cannot have {observer} = {place!r}",
                f"give folders, relative to the base's own, for: {', '.join(OBSERVERS)}",
            )
    knows = defaults.get("knows")
    if knows and not isinstance(knows.get("samples", ""), str):
        raise Incompatible(f"{path}: samples must be a folder", 'write for example: samples = "portraits"')
    if knows and not (isinstance(knows.get("what"), str) and type(knows.get("error")) in (int, float)):
        raise Incompatible(f"{path}: [knows] must say what and error", 'write: what = "drawn faces" and error = 0.2')
    return MappingProxyType(defaults)
