"""The arguments of a stopped learning, kept beside its checkpoint for `pmagic learn --resume`."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import get_args, get_type_hints

import pmagic
from pmagic.errors import BundleDamaged, Incompatible, NotFound, UsageError
from pmagic.library import naming, unfinished

# The inputs that the user gives, by their keys in the inputs of a learning.
_INPUT_NAMES = {
    "photos": "the photo",
    "mask": "the mask",
    "word": "the word for the subject",
    "kind": "the kind of subject",
    "method": "the method",
    "base": "the base's weights",
}


_LISTS = ("photos", "together", "words")  # the arguments that are lists of texts


@dataclass(frozen=True, kw_only=True)
class LearnArgs:
    """Everything on the command line of `learn` that decides what is learned, and on which device."""

    photos: Sequence[str] = ()  # as typed; absolute once kept
    together: Sequence[str] = ()  # further names, of personas that are learned together with the first
    words: Sequence[str] = ()  # their class words: none, one for all, or one for each name; `word` is for one persona
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
    rank: int | None = None
    prior: int | None = None
    stages: str | None = None
    seed: int = 0
    device: str | None = None
    dtype: str = "auto"
    compile: bool = False

    def on(self, base: str) -> "LearnArgs":
        """The arguments to keep: with the chosen base, which config.toml may not change later, and absolute paths."""
        mask = None if self.mask is None else str(Path(self.mask).absolute())
        return replace(self, photos=[str(Path(each).absolute()) for each in self.photos], mask=mask, base=base)


def keep(folder: Path, arguments: LearnArgs) -> None:
    """Writes the arguments to a folder given by `unfinished.locked_run`."""
    unfinished.keep_options(folder, json.dumps(asdict(arguments), sort_keys=True).encode())


def command(name: str, arguments: LearnArgs) -> str:
    """The command line that starts the same learning again."""
    flags = {"word": "--class"}
    words = ["pmagic", "learn", *arguments.photos, *(["--together"] if arguments.together else []), "--name", name]
    words += [word for each in arguments.together for word in ("--name", each)]
    words += [word for each in arguments.words for word in ("--class", each)]
    for each in fields(LearnArgs):
        value = getattr(arguments, each.name)
        if each.name in _LISTS or value == getattr(LearnArgs(), each.name):
            continue
        words.append(flags.get(each.name, f"--{each.name}".replace("_", "-")))
        words += [] if value is True else [str(value)]
    return shlex.join(words)


def start_run(
    folder: Path, name: str, arguments: LearnArgs, base: str, inputs: Mapping[str, object], *, resumed: bool
) -> None:
    """Keep the options and inputs of a run in its locked folder. Raises as `require_same_inputs` if it is resumed."""
    inputs = {**inputs, "pmagic": pmagic.__version__}
    if resumed:
        require_same_inputs(folder, name, arguments, inputs)
    keep(folder, arguments.on(base))
    unfinished.keep_inputs(folder, inputs)


def require_same_inputs(folder: Path, name: str, arguments: LearnArgs, inputs: Mapping[str, object]) -> None:
    """Raises Incompatible, naming what changed, if the folder has a checkpoint that was made from other inputs.

    inputs: those of the learning now, as JSON values. The folder of an earlier version, which kept none, passes.
    """
    before = unfinished.kept_inputs(folder)
    if before is None or not unfinished.has_checkpoint(folder):
        return
    now = json.loads(json.dumps(dict(inputs), default=str))
    changes = [label for key, label in _INPUT_NAMES.items() if before.get(key) != now[key]]
    old, new = before.get("settings"), now["settings"]
    old = old if isinstance(old, dict) else {}
    defaults = [
        _difference(key, old.get(key), new.get(key)) for key in sorted(old | new) if old.get(key) != new.get(key)
    ]
    if not changes and not defaults:
        return
    anew = f"start over with `{command(name, arguments)}`"
    if changes:
        advice = f"put {' and '.join(changes)} back as before, or {anew}"
    elif before.get("pmagic") != now["pmagic"]:
        advice = f"continue with pmagic {before.get('pmagic')}, which it was started with, or {anew}"
    else:
        advice = f"put the values in the base's pmagic.toml back as before, or {anew}"
    raise Incompatible(
        f"the learning of {name!r} cannot continue, because it was started with another input: "
        f"{'; '.join(changes + defaults)}",
        advice,
        kept="what was learned so far",
    )


def _difference(key: str, old: object, new: object) -> str:
    """`learning_rate was 0.0001 and is 5e-05`; for a list or a table only that it has changed."""
    if isinstance(old, list | dict) or isinstance(new, list | dict):
        return f"{key} has changed"
    return f"{key} was {old} and is {new}"


def recall(root: Path, name: str | None, options: LearnArgs) -> tuple[str, LearnArgs]:
    """The name and arguments of a stopped learning: that of `name`, or the only one.

    Raises NotFound, UsageError if `options` are given or several learnings were stopped, BundleDamaged.
    """
    changed = [
        each.name for each in fields(LearnArgs) if getattr(options, each.name) != getattr(LearnArgs(), each.name)
    ]
    if changed:
        labels = ", ".join(
            {"photos": "photo", "word": "--class", "words": "--class"}.get(each, f"--{each}") for each in changed
        )
        raise UsageError(
            f"--resume continues with the options of the stopped learning, so it takes no {labels.replace('_', '-')}",
            "leave them out, or leave out --resume to start another learning",
        )
    stopped = unfinished.resumable_names(root)
    if name is None:
        stopped = [each for each in stopped if not unfinished.is_running(root, each)]
        if len(stopped) > 1:
            raise UsageError(
                f"several learnings were stopped: {', '.join(stopped)}",
                f"add --name, as in --name {shlex.quote(stopped[0])}",
            )
        if not stopped:
            raise NotFound("no learning was stopped", "start one with `pmagic learn PHOTO --name NAME`")
    stopped_name = stopped[0] if name is None else naming.check_name(name)
    if stopped_name not in stopped:
        others = (
            f"choose one of: {', '.join(stopped)}"
            if stopped
            else f"start it with `pmagic learn PHOTO --name {shlex.quote(stopped_name)}`"
        )
        raise NotFound(f"no learning of {stopped_name!r} was stopped", others)
    try:
        return stopped_name, _parse_args(json.loads(unfinished.read_options(root, stopped_name)))
    except (ValueError, TypeError, RecursionError) as error:
        raise BundleDamaged(
            f"the options of the stopped learning {stopped_name!r} cannot be read: {error}",
            f"remove it with `pmagic rm {shlex.quote(stopped_name)}`, or learn with the photo again",
        ) from error


def _parse_args(words: object) -> LearnArgs:
    """The arguments that were kept. Raises TypeError for a value of a wrong type."""
    if not isinstance(words, dict):
        raise TypeError("it is no table")
    arguments = LearnArgs(**words)
    for name, kind in get_type_hints(LearnArgs).items():
        value = getattr(arguments, name)
        wanted = (list, tuple) if name in _LISTS else get_args(kind) or (kind,)
        is_whole = type(value) is int and float in wanted
        if not (type(value) in wanted or is_whole):
            raise TypeError(f"its {name} cannot be {value!r}"[:200])
    for name in _LISTS:
        if not all(isinstance(each, str) and each for each in getattr(arguments, name)):
            raise TypeError(f"its {name} are no texts")
    return arguments
