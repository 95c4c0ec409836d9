"""Reads an evaluation: its pictures by person, prompt and method, and the photos learned from. It needs no weights."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pmagic import methods, shelf
from pmagic.datasets import Individual
from pmagic.errors import Incompatible, NotFound, UsageError
from pmagic.evaluation.eval_config import EvalSubject, eval_subject
from pmagic.evaluation.store import CELL, PLAN, VARIANT, Store, cell

_DRAWING = re.compile(r"[0-9a-f]{8}/[0-9a-f]{8}")  # a persona's place and a drawing of it


@dataclass(frozen=True)
class Method:
    """One row of the evaluation. key: of its variant. name: on the methods shelf."""

    key: str
    title: str
    name: str


@dataclass(frozen=True, order=True)
class Place:
    """Which picture of which person. person and prompt count from 1, k from 0."""

    person: int
    prompt: int
    k: int


@dataclass(frozen=True)
class Drawn:
    """One picture. path: relative to the evaluation. obeyed: whether CLIP finds its own prompt the best of all."""

    path: str
    obeyed: bool


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a study is made of."""

    root: Path
    about: Mapping[str, str]  # base and data set
    methods: Sequence[Method]
    prompts: Sequence[str]
    people: Mapping[int, EvalSubject]  # those with pictures, by number
    pictures: Mapping[Place, Mapping[str, Drawn]]  # by place, then by the method's key
    missing: Sequence[str]  # the names of people without pictures


def read(folder: Path, root: Path | None, wanted: Sequence[str]) -> Evaluation:
    """Read the evaluation in `folder`.

    root: the folder of its data set. wanted: names or keys of methods; all of them if it is empty. Raises NotFound
    without an evaluation, Incompatible if its plan or its photos are others, UsageError for methods that cannot be
    compared.
    """
    plan = _plan(folder)
    chosen = _methods(plan, wanted)
    store, missing = Store(folder), []
    people: dict[int, EvalSubject] = {}
    pictures: dict[Place, dict[str, Drawn]] = {}
    for who in _subjects(plan, store, root):
        drawn = _pictures(store, who, [each.key for each in chosen], len(plan["prompts"]))
        if drawn:
            people[who.number] = who
            pictures |= drawn
        else:
            missing.append(who.name)
    return Evaluation(
        root=folder,
        about={"base": str(plan["base"]), "dataset": str(plan["dataset"])},
        methods=chosen,
        prompts=[str(each) for each in plan["prompts"]],
        people=people,
        pictures=pictures,
        missing=missing,
    )


def _plan(folder: Path) -> dict[str, Any]:
    if not (folder / PLAN).is_file():
        raise NotFound(f"{folder} holds no evaluation", "give the folder that `pmagic eval` wrote (its --out)")
    try:
        plan = dict(json.loads((folder / PLAN).read_text()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise Incompatible(f"{folder / PLAN} cannot be read: {error}", "evaluate again with another --out") from error
    if not plan.get("variants") or "dataset" not in plan:
        raise UsageError(
            f"{folder} holds the scores of another tool's pictures, and a study compares methods of one evaluation",
            "give an evaluation of `pmagic eval --dataset`",
        )
    return plan


def _methods(plan: Mapping[str, Any], wanted: Sequence[str]) -> list[Method]:
    """The methods to compare, in the order of `wanted`. The default method is left out of a plan's variants."""
    known = [Method(each["key"], each["title"], each.get("method", methods.DEFAULT)) for each in plan["variants"]]
    chosen = [_method(known, each) for each in wanted] if wanted else known
    if len(set(chosen)) != len(chosen):
        raise UsageError(f"--methods names one method twice: {','.join(wanted)}", "name each method once")
    if len(chosen) < 2:
        raise UsageError(
            f"a study compares two methods or more, and there is one: {', '.join(each.key for each in chosen)}",
            f"choose from {_list_keys(known)}" if len(known) > 1 else "evaluate several: pmagic eval --method a,b",
        )
    return chosen


def _method(known: Sequence[Method], name: str) -> Method:
    """The method with this key, or the only one of this name. Raises NotFound or UsageError."""
    for each in known:
        if each.key == name:
            return each
    of = [each for each in known if each.name == name.replace("-", "_")]
    if len(of) > 1:
        raise UsageError(f"the evaluation has {len(of)} rows of {name}", f"name one of them: {_list_keys(of)}")
    if not of:
        raise NotFound(f"the evaluation has no method {name!r}", f"choose from {_list_keys(known)}")
    return of[0]


def _list_keys(some: Sequence[Method]) -> str:
    return ", ".join(each.key for each in some)


def _subjects(plan: Mapping[str, Any], store: Store, root: Path | None) -> list[EvalSubject]:
    """The people of the evaluation with their photos, which must be the same as then."""
    names = [name for each in plan["people"] for name in each]
    population: dict[str, list[Individual]] = {}
    for who in _population(plan, root):
        population.setdefault(who.name, []).append(who)
    found = []
    for number, name in enumerate(names, 1):
        subjects = [eval_subject(number, who) for who in population.get(name, ())]
        folders = [each.name for each in (store.root / "people").glob(f"{number:04d}-*")]
        same = [each for each in subjects if each.place in folders] or ([] if folders else subjects)
        if not same:
            raise Incompatible(
                f"the photos of {name} are not those of the evaluation", "give the --root that the evaluation had"
            )
        found.append(same[0])
    return found


def _population(plan: Mapping[str, Any], root: Path | None) -> list[Individual]:
    name = str(plan["dataset"])
    if name not in shelf.names("datasets"):
        raise Incompatible(f"there is no data set {name!r}", "use the pmagic that made the evaluation")
    source = shelf.take("datasets", name)
    if root is None and source.fetches():
        raise UsageError(f"the photos of {name} are not on this machine", "give --root, the folder of the data set")
    kind = plan.get("photos")
    return source.people(root, kind) if kind else source.people(root)


def _pictures(store: Store, who: EvalSubject, keys: Sequence[str], prompts: int) -> dict[Place, dict[str, Drawn]]:
    """The pictures of one person by each complete variant. Raises Incompatible for a damaged store."""
    found: dict[Place, dict[str, Drawn]] = {}
    kept = store.read(who.place, weights=False)
    for key in keys:
        about = kept.get(f"variants/{key}")
        if about is None:
            continue
        try:
            drawing = str(json.loads(about[VARIANT])["drawing"])
            if not _DRAWING.fullmatch(drawing):
                raise ValueError(f"no place of pictures: {drawing!r}")
            for prompt in range(prompts):
                place = cell(drawing, prompt)
                scores = json.loads(kept[place][CELL])["scores"]
                for k, obeyed in enumerate(scores["obeyed"]):
                    path = store.picture(who.place, place, k).relative_to(store.root).as_posix()
                    found.setdefault(Place(who.number, prompt + 1, k), {})[key] = Drawn(path, obeyed == 1)
        except (KeyError, TypeError, ValueError) as error:
            raise Incompatible(
                f"the results of {who.name} in {store.root} cannot be read: {error}",
                "run `pmagic eval` with another --out",
            ) from error
    return found
