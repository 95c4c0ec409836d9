"""What a base model is called, where its diffusers folder lies and what it says about itself.

Knows nothing about the network (that is `fetching`) nor about torch (that is `loading`).
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pmagic import settings, shelf
from pmagic.errors import Incompatible, NotFound, WeightsMissing
from pmagic.library import naming

CLIP_REPO = "openai/clip-vit-base-patch32"  # the observer of METHOD 2: image embedding and text score
CLIPSEG_REPO = "CIDAS/clipseg-rd64-refined"  # masks for a word
# insightface's packs: one that finds faces and is trained against, and another that only judges.
FACES_PACK, JUDGE_PACK = "buffalo_l", "antelopev2"
FOR_PHOTOGRAPHS = "sd14"  # the base that the paper uses
OBSERVERS = ("clip", "clipseg", "faces", "judge")
PARTS = ("unet", "vae", "text_encoder")  # each must hold weights; the tokenizer and the scheduler hold only texts


@dataclass(frozen=True)
class Domain:
    """What a base that does not know every kind of picture says of what it knows."""

    what: str  # in words, as in "drawn faces"
    error: float  # the largest noise error of such pictures
    samples: tuple[Path, ...]  # pictures of it to try, shipped with the base


@dataclass(frozen=True)
class Card:
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
        return naming.base_name(self.name) or "folder"


def known() -> list[Card]:
    """The bases with a short name, each as found on this machine."""
    return [find(name) for name in shelf.names("bases.known")]


def find(name: str) -> Card:
    """The card of a short name, a hub id (owner/repo) or a local diffusers folder; never asks the network.

    Raises NotFound, with a proposal where a known name is close.
    """
    if name and name not in shelf.names("bases.known"):
        folder = settings.expanded(name)
        if folder.is_dir():
            return _of_folder(folder.resolve())
    return named(name)


def named(name: str) -> Card:
    """As `find`, of a short name or a hub id alone: no folder of that name is looked at."""
    cards = {each: shelf.take("bases.known", each).CARD for each in shelf.names("bases.known")}
    if name in cards:
        return _located(cards[name])
    if naming.HUB_ID.fullmatch(name):
        for card in cards.values():
            if card.repo is not None and card.repo.lower() == name.lower():
                return _located(card)
        licence = f"see https://huggingface.co/{name}"
        return _located(Card(name, folder=None, repo=name, clip=CLIP_REPO, size_gb=None, licence=licence))
    close = difflib.get_close_matches(name.lower(), cards, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise NotFound(
        f"there is no base {name!r}",
        f"{hint}--base takes {', '.join(cards)}, a hub id (owner/repo) or a diffusers folder",
    )


def way_to_photographs() -> str:
    """What to type for a base that knows photographs, with the pack that finds faces in them."""
    return (
        f"for photographs fetch another base, `pmagic models pull {FOR_PHOTOGRAPHS}`, and what finds faces in them, "
        f"`pmagic models pull {FACES_PACK}` (for non-commercial use), then add `--base {FOR_PHOTOGRAPHS}`"
    )


def require_weights(card: Card) -> Card:
    """The same card, once all that learning and rendering open is on this machine; else WeightsMissing."""
    missing = missing_parts(card)
    if not missing:
        return card
    if card.repo is None:
        raise WeightsMissing(
            f"the base {card.name!r} is not complete: {', '.join(missing)} missing",
            "restore its files, or use another base: `pmagic models list` shows which are here",
        )
    size = f"{card.size_gb:.1f} GB" if card.size_gb is not None else "a size that only the hub knows"
    raise WeightsMissing(
        f"the base {card.name!r} ({card.repo}) is not on this machine: {', '.join(missing)} missing ({size})",
        f"fetch it with `pmagic models pull {card.name}`, or use `--base mini`, which works at once",
    )


def missing_parts(card: Card) -> list[str]:
    """What of the base and its observer is not on this machine, in words; empty when it can be loaded.

    Raises Incompatible for a folder that holds Python code: a base is data.
    """
    if card.folder is None:
        missing = ["the weights"]
    else:
        code = next(card.folder.rglob("*.py"), None)
        if code is not None:
            raise Incompatible(f"the base folder {card.folder} holds Python code ({code.name})", "remove it first")
        missing = [f"{part}/*.safetensors" for part in PARTS if not any((card.folder / part).glob("*.safetensors"))]
    if not isinstance(card.clip, Path):
        missing.append(f"the observer {card.clip}")
    elif not any(card.clip.glob("*.safetensors")):
        missing.append(f"the observer in {card.clip}")
    return missing


def place_of(repo: str) -> Path:
    """Where the hub's `owner/repo`, or a face pack, is kept once pulled."""
    return settings.models_dir() / repo.replace("/", "--")


def _located(card: Card) -> Card:
    """The card as this machine has it: folder, observer and defaults filled in."""
    folder = card.folder if card.repo is None else place_of(card.repo)
    if folder is None or not (folder / "model_index.json").is_file():
        folder = None
    defaults = _read_defaults(folder)
    return replace(card, folder=folder, defaults=defaults, **_observers(card, folder, defaults))


def _of_folder(folder: Path) -> Card:
    if not (folder / "model_index.json").is_file():
        raise NotFound(
            f"{folder} is not a diffusers folder: it has no model_index.json",
            "give the folder that holds model_index.json, unet, vae, text_encoder and tokenizer",
        )
    defaults = _read_defaults(folder)
    plain = Card(str(folder), folder, repo=None, clip=CLIP_REPO, size_gb=None, licence="the folder's own")
    return replace(plain, defaults=defaults, **_observers(plain, folder, defaults))


def _observers(card: Card, folder: Path | None, defaults: Mapping[str, Any]) -> dict[str, str | Path]:
    """Each a folder where there is one: pmagic.toml's, the card's own, or what was pulled of that name."""
    own = defaults.get("observers", {}) if folder is not None else {}
    places: dict[str, str | Path] = {}
    for observer in OBSERVERS:
        stated = getattr(card, observer)
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
