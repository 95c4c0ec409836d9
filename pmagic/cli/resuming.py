"""What `pmagic learn --resume` goes on with: the words of a stopped learning, kept beside its checkpoint."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import get_args, get_type_hints

from pmagic.errors import BundleDamaged, Incompatible, NotFound, UsageError
from pmagic.library import naming, unfinished

# What the person gives, by its key among a learning's inputs.
_GIVEN = {
    "photos": "the photo",
    "mask": "the mask",
    "word": "the word for the subject",
    "kind": "the kind of subject",
    "method": "the method",
    "base": "the base's weights",
}


@dataclass(frozen=True, kw_only=True)
class LearnArgs:
    """Everything on the command line of `learn` that decides what is learned, and on which device."""

    photos: Sequence[str] = ()  # as given; absolute once kept
    base: str | None = None
    word: str | None = None
    style: bool = False
    face: int | None = None
    mask: str | None = None
    method: str = "personamagic"
    recipe: str = "tuned"
    iterations: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    stages: str | None = None
    seed: int = 0
    device: str | None = None
    dtype: str = "auto"
    compile: bool = False

    def on(self, base: str) -> "LearnArgs":
        """As it is kept: on the base that was chosen, whatever config.toml says later, and from any folder."""
        mask = None if self.mask is None else str(Path(self.mask).absolute())
        return replace(self, photos=[str(Path(each).absolute()) for each in self.photos], mask=mask, base=base)


def keep(folder: Path, asked: LearnArgs) -> None:
    """Into a folder given by `unfinished.locked_run`."""
    unfinished.keep_options(folder, json.dumps(asdict(asked), sort_keys=True).encode())


def command(name: str, asked: LearnArgs) -> str:
    """The command line that asks for the same once more, from the start."""
    flags = {"word": "--class"}
    words = ["pmagic", "learn", *asked.photos, "--name", name]
    for each in fields(LearnArgs):
        value = getattr(asked, each.name)
        if each.name == "photos" or value == getattr(LearnArgs(), each.name):
            continue
        words.append(flags.get(each.name, f"--{each.name}".replace("_", "-")))
        words += [] if value is True else [str(value)]
    return shlex.join(words)


def require_same_inputs(folder: Path, name: str, asked: LearnArgs, inputs: Mapping[str, object]) -> None:
    """Incompatible, naming what changed, where a checkpoint in the folder was made from other inputs.

    inputs: of the learning as it would go on now; JSON values. A folder of an earlier version, which kept none, passes.
    """
    before = unfinished.kept_inputs(folder)
    if before is None or not unfinished.has_checkpoint(folder):
        return
    now = json.loads(json.dumps(dict(inputs), default=str))
    given = [said for key, said in _GIVEN.items() if before.get(key) != now[key]]
    old, new = before.get("settings"), now["settings"]
    old = old if isinstance(old, dict) else {}
    defaults = [
        _difference(key, old.get(key), new.get(key)) for key in sorted(old | new) if old.get(key) != new.get(key)
    ]
    if not given and not defaults:
        return
    anew = f"begin anew with `{command(name, asked)}`"
    if given:
        advice = f"put {' and '.join(given)} back as before, or {anew}"
    elif before.get("pmagic") != now["pmagic"]:
        advice = f"go on with pmagic {before.get('pmagic')}, which it was started with, or {anew}"
    else:
        advice = f"put the values in the base's pmagic.toml back as before, or {anew}"
    raise Incompatible(
        f"the learning of {name!r} cannot go on, for it was started with another input: {'; '.join(given + defaults)}",
        advice,
        kept="what was learned so far",
    )


def _difference(key: str, old: object, new: object) -> str:
    """`learning_rate was 0.0001 and is 5e-05`; of lists only that they differ."""
    if isinstance(old, list | dict) or isinstance(new, list | dict):
        return f"{key} is another one"
    return f"{key} was {old} and is {new}"


def recall(root: Path, name: str | None, given: LearnArgs) -> tuple[str, LearnArgs]:
    """The name and words of a stopped learning: of `name`, or of the only one there is.

    Raises NotFound, UsageError where other options are `given` or several were stopped, BundleDamaged.
    """
    changed = [each.name for each in fields(LearnArgs) if getattr(given, each.name) != getattr(LearnArgs(), each.name)]
    if changed:
        shown = ", ".join({"photos": "photo", "word": "--class"}.get(each, f"--{each}") for each in changed)
        raise UsageError(
            f"--resume goes on with the options it was started with, so it takes no {shown.replace('_', '-')}",
            "leave them out, or leave out --resume to start another learning",
        )
    started = unfinished.resumable_names(root)
    if name is None:
        if len(started) > 1:
            raise UsageError(
                f"several learnings were stopped: {', '.join(started)}",
                f"add --name, as in --name {shlex.quote(started[0])}",
            )
        if not started:
            raise NotFound("no learning was stopped", "start one with `pmagic learn PHOTO --name NAME`")
    chosen = started[0] if name is None else naming.checked_name(name)
    if chosen not in started:
        others = (
            f"choose one of: {', '.join(started)}"
            if started
            else f"start it with `pmagic learn PHOTO --name {shlex.quote(chosen)}`"
        )
        raise NotFound(f"no learning of {chosen!r} was stopped", others)
    try:
        return chosen, _parse_args(json.loads(unfinished.read_options(root, chosen)))
    except (ValueError, TypeError, RecursionError) as error:
        raise BundleDamaged(
            f"what was asked for when learning {chosen!r} cannot be read: {error}",
            f"remove it with `pmagic rm {shlex.quote(chosen)}`, or learn with the photo again",
        ) from error


def _parse_args(words: object) -> LearnArgs:
    """The options in what was kept; TypeError where one is of another type than its own."""
    if not isinstance(words, dict):
        raise TypeError("it is no table")
    asked = LearnArgs(**words)
    for name, kind in get_type_hints(LearnArgs).items():
        value = getattr(asked, name)
        wanted = (list, tuple) if name == "photos" else get_args(kind) or (kind,)
        whole = type(value) is int and float in wanted
        if not (type(value) in wanted or whole):
            raise TypeError(f"its {name} cannot be {value!r}"[:200])
    if not all(isinstance(each, str) and each for each in asked.photos):
        raise TypeError("its photos are no paths")
    return asked
