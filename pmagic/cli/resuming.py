"""What `pmagic learn --resume` goes on with: the words of a stopped learning, kept beside its checkpoint."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import get_args, get_type_hints

from pmagic.errors import BundleDamaged, NotFound, UsageProblem
from pmagic.library import naming, unfinished


@dataclass(frozen=True)
class Asked:
    """Everything on the command line of `learn` that decides what is learned, and on which device."""

    photos: Sequence[str] = ()  # as given; absolute once kept
    base: str | None = None
    word: str | None = None
    style: bool = False
    face: int | None = None
    mask: str | None = None
    method: str = "personamagic"
    recipe: str = "paper"
    iterations: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    stages: str | None = None
    seed: int = 0
    device: str | None = None
    dtype: str = "auto"
    compile: bool = False

    def on(self, base: str) -> "Asked":
        """As it is kept: on the base that was chosen, whatever config.toml says later, and from any folder."""
        mask = None if self.mask is None else str(Path(self.mask).absolute())
        return replace(self, photos=[str(Path(each).absolute()) for each in self.photos], mask=mask, base=base)


def keep(folder: Path, asked: Asked) -> None:
    """Into a folder given by `unfinished.alone`."""
    unfinished.keep_order(folder, json.dumps(asdict(asked), sort_keys=True).encode())


def recall(root: Path, name: str | None, given: Asked) -> tuple[str, Asked]:
    """The name and words of a stopped learning: of `name`, or of the only one there is.

    Raises NotFound, UsageProblem where other options are `given` or several were stopped, BundleDamaged.
    """
    changed = [each.name for each in fields(Asked) if getattr(given, each.name) != getattr(Asked(), each.name)]
    if changed:
        shown = ", ".join({"photos": "the photo", "word": "--class"}.get(each, f"--{each}") for each in changed)
        raise UsageProblem(
            f"--resume goes on with the options it was started with, so it takes no {shown.replace('_', '-')}",
            "leave them out, or leave out --resume to start another learning",
        )
    started = unfinished.orders(root)
    if name is None:
        if len(started) > 1:
            raise UsageProblem(
                f"several learnings were stopped: {', '.join(started)}", f"add --name, as in --name {started[0]}"
            )
        if not started:
            raise NotFound("no learning was stopped", "start one with `pmagic learn PHOTO --name NAME`")
    chosen = started[0] if name is None else naming.checked_name(name)
    if chosen not in started:
        others = f"there is one of: {', '.join(started)}" if started else "start it with `pmagic learn PHOTO --name`"
        raise NotFound(f"no learning of {chosen!r} was stopped", others)
    try:
        return chosen, _asked(json.loads(unfinished.read_order(root, chosen)))
    except (ValueError, TypeError, RecursionError) as error:
        raise BundleDamaged(
            f"what was asked for when learning {chosen!r} cannot be read: {error}",
            f"remove it with `pmagic rm {chosen}`, or learn with the photo again",
        ) from error


def _asked(words: object) -> Asked:
    """The options in what was kept; TypeError where one is of another type than its own."""
    if not isinstance(words, dict):
        raise TypeError("it is no table")
    asked = Asked(**words)
    for name, kind in get_type_hints(Asked).items():
        value = getattr(asked, name)
        wanted = (list, tuple) if name == "photos" else get_args(kind) or (kind,)
        whole = type(value) is int and float in wanted
        if not (type(value) in wanted or whole):
            raise TypeError(f"its {name} cannot be {value!r}"[:200])
    if not all(isinstance(each, str) and each for each in asked.photos):
        raise TypeError("its photos are no paths")
    return asked
