"""What a base model is called, where its diffusers folder lies and what it says about itself.

Knows nothing about the network (that is `fetching`) nor about torch (that is `loading`).
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

CLIP_REPO = "openai/clip-vit-base-patch32"  # the observer of METHOD 2: image embedding and text score
CLIPSEG_REPO = "CIDAS/clipseg-rd64-refined"  # masks for a word
# insightface's packs: one that finds faces and is trained against, and another that only judges.
FACES_PACK, JUDGE_PACK = "buffalo_l", "antelopev2"
FOR_PHOTOGRAPHS = "sd14"  # the base that the paper uses
OBSERVERS = ("clip", "clipseg", "faces", "judge")
# What is fetched besides bases, in bytes: the hub's observers, and what the archives of insightface's packs hold.
HUB_OBSERVERS = {CLIP_REPO: 605_000_000, CLIPSEG_REPO: 603_000_000}
PACKS = {FACES_PACK: 326_000_000, JUDGE_PACK: 407_000_000}


@dataclass(frozen=True)
class Domain:
    """What a base that does not know every kind of picture says of what it knows."""

    what: str  # in words, as in "drawn faces"
    error: float  # the largest noise error of such pictures
    samples: tuple[Path, ...]  # pictures of it to try, shipped with the base


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One base model. Pure value: making one touches neither the network nor the weights.

    clip, clipseg, faces, judge: the observers' folders; while one is not on this machine, its hub id or pack name.
    defaults: <folder>/pmagic.toml parsed ([learn], [render], [observers], [knows]), empty without one.
    """

    name: str  # "mini", "sd14", "owner/repo" or an absolute folder
    folder: Path | None  # its diffusers folder, None when it is not on this machine
    repo: str | None  # hub id, None for folders
    clip: str | Path
    size_gb: float | None  # of what a download would fetch; None when only the hub can say
    licence: str
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    clipseg: str | Path = CLIPSEG_REPO  # finds the mask of a word
    faces: str | Path = FACES_PACK  # finds faces, and knows them for the identity loss
    judge: str | Path = JUDGE_PACK  # knows faces, for evaluation alone

    @property
    def local_folder(self) -> Path:
        """Its diffusers folder, of a base that `require_weights` has let through."""
        assert self.folder is not None
        return self.folder

    @property
    def domain(self) -> Domain | None:
        """What pmagic.toml says that this base knows; None of a base for photographs of every kind."""
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
        """Of everything that is not here and that learning people needs; None where only the hub can say."""
        if self.folder is None and self.size_gb is None:
            return None
        observers = (each for each in (self.clip, self.clipseg, self.faces) if isinstance(each, str))
        besides = sum((HUB_OBSERVERS | PACKS).get(each, 0) for each in observers) / 1e9
        return besides + (self.size_gb or 0 if self.folder is None else 0)


def known() -> list[ModelSpec]:
    """The bases with a short name, each as found on this machine."""
    return [resolve(name) for name in shelf.names("bases.known")]


def resolve(name: str) -> ModelSpec:
    """The card of a short name, a hub id (owner/repo) or a local diffusers folder; never asks the network.

    Raises NotFound, with a proposal where a known name is close, and Incompatible for a file.
    """
    if name and name not in shelf.names("bases.known"):
        path = settings.expanded(name)
        if _is_folder(path):
            return _of_folder(path.resolve())
        if os.path.lexists(path):
            raise Incompatible(
                f"{name} is {kinds.file_kind(path)}, and a base is a diffusers folder",
                f"give the folder that holds {kinds.INDEX}; `pmagic models list` shows bases with a short name",
            )
        if "/" in name and not HUB_ID.fullmatch(name):
            raise NotFound(f"there is no base {name!r}: there is no such folder", _nearby(path))
    return resolve_name(name)


def resolve_name(name: str) -> ModelSpec:
    """As `find`, of a short name or a hub id alone: no folder of that name is looked at."""
    specs = {each: shelf.take("bases.known", each).SPEC for each in shelf.names("bases.known")}
    if name in specs:
        return _located(specs[name])
    if HUB_ID.fullmatch(name):
        for spec in specs.values():
            if spec.repo is not None and spec.repo.lower() == name.lower():
                return _located(spec)
        licence = f"see https://huggingface.co/{name}"
        return _located(ModelSpec(name=name, folder=None, repo=name, clip=CLIP_REPO, size_gb=None, licence=licence))
    close = difflib.get_close_matches(name.lower(), specs, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise NotFound(
        f"there is no base {name!r}",
        f"{hint}--base takes {', '.join(specs)}, a hub id (owner/repo) or a diffusers folder",
    )


def way_to_photographs() -> str:
    """What to type for a base that knows photographs, with the pack that finds faces in them."""
    return (
        f"for photographs fetch another base, `pmagic models pull {FOR_PHOTOGRAPHS}`, and what finds faces in them, "
        f"`pmagic models pull {FACES_PACK}` (for non-commercial use), then add `--base {FOR_PHOTOGRAPHS}`"
    )


def require_weights(spec: ModelSpec) -> ModelSpec:
    """The same card, once all that learning and rendering open is on this machine; else WeightsMissing."""
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
        raise WeightsMissing(f"the observer in {spec.clip} holds no safetensors weights", restoring(spec.clip))
    return spec


def missing_parts(spec: ModelSpec) -> list[str]:
    """What of the base and its observer is not on this machine, in words; empty when it can be loaded.

    Raises Incompatible for a folder that holds Python code, for a base is data, and for another kind of model.
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


def restoring(folder: Path) -> str:
    """What to do about an observer or a pack that is damaged: pulled ones are pulled again."""
    if folder.parent != settings.models_dir():
        return f"restore the files in {folder}"
    name = folder.name.replace("--", "/", 1)
    return _pull_again(name) if folder.is_dir() else f"fetch it with `pmagic models pull {name}`"


def place_of(repo: str) -> Path:
    """Where the hub's `owner/repo`, or a face pack, is kept once pulled."""
    return settings.models_dir() / repo.replace("/", "--")


def _lacks(spec: ModelSpec) -> str:
    """As kinds.lacks_of, of the base's folder. Raises Incompatible for what is no Stable Diffusion, and for code."""
    assert spec.folder is not None  # asked only of a base that is here
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
    """The commands that fetch what is missing of a base and of what learning people on it needs."""
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
        raise NotFound(f"{path} cannot be looked at: {error.strerror}", "correct the permissions above it") from error


def _nearby(path: Path) -> str:
    """What of a similar name lies beside a folder that is not there, or else how far its path can be followed.

    Names, and no path: it goes into reports.
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


def _located(spec: ModelSpec) -> ModelSpec:
    """The card as this machine has it: folder, observer and defaults filled in."""
    folder = spec.folder if spec.repo is None else place_of(spec.repo)
    if folder is None or not (folder / kinds.INDEX).is_file():
        folder = None
    defaults = _read_defaults(folder)
    return replace(spec, folder=folder, defaults=defaults, **_observers(spec, folder, defaults))


def _of_folder(folder: Path) -> ModelSpec:
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
    """Each a folder where there is one: pmagic.toml's, the card's own, or what was pulled of that name."""
    own = defaults.get("observers", {}) if folder is not None else {}
    places: dict[str, str | Path] = {}
    for observer in OBSERVERS:
        stated = getattr(spec, observer)
        if observer in own:
            stated = (folder / own[observer]).resolve()
        elif isinstance(stated, str) and place_of(stated).is_dir():
            stated = place_of(stated)
        places[observer] = stated
    return places


def _read_defaults(folder: Path | None) -> Mapping[str, Any]:
    if folder is None or not (folder / "pmagic.toml").is_file():
        return MappingProxyType({})
    path = folder / "pmagic.toml"
    try:
        found = settings.parsed_toml(path)
    except ValueError as error:
        raise Incompatible(f"{path} is not valid TOML: {error}", "correct the file, or remove it") from error
    for table in ("learn", "render", "observers", "knows"):
        if not isinstance(found.get(table, {}), dict):
            raise Incompatible(f"{path}: {table} must be a table", f"write [{table}] above its values")
    for observer, place in found.get("observers", {}).items():
        if observer not in OBSERVERS or not isinstance(place, str) or "\0" in place:
            raise Incompatible(
                f"{path}: [observers] cannot have {observer} = {place!r}",
                f"give folders, relative to the base's own, for: {', '.join(OBSERVERS)}",
            )
    knows = found.get("knows")
    if knows and not isinstance(knows.get("samples", ""), str):
        raise Incompatible(f"{path}: samples must be a folder", 'write for example: samples = "portraits"')
    if knows and not (isinstance(knows.get("what"), str) and type(knows.get("error")) in (int, float)):
        raise Incompatible(f"{path}: [knows] must say what and error", 'write: what = "drawn faces" and error = 0.2')
    return MappingProxyType(found)
