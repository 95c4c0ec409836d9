"""Chooses the questions of a study: pairs of pictures of two methods, and attention checks whose answer is known."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pmagic.errors import UsageError
from pmagic.study.source import Evaluation, Method, Place

IDENTITY, TEXT = "identity", "text"  # which picture is the person; which picture fits the prompt
KINDS = (IDENTITY, TEXT)
_DRAWS = 20  # of a check; if all of them are there already, the first is asked again
_TRIES = 10_000  # random draws, after which an evaluation is taken to have no further check


@dataclass(frozen=True)
class Choice:
    """One of the two pictures. path: relative to the evaluation, "" for the photo learned from."""

    path: str
    method: str = ""  # its key; "" in an attention check


@dataclass(frozen=True, kw_only=True)
class Question:
    """A forced choice between the pictures a and b. person and prompt count from 1.

    answer: "a" or "b" for an attention check, "" for a question without a right answer.
    """

    id: str
    kind: str
    person: int
    prompt: int
    a: Choice
    b: Choice
    answer: str = ""


@dataclass(frozen=True)
class _Pair:
    kind: str
    place: Place
    first: Choice
    second: Choice
    known: bool = False  # whether `first` is the right answer


def choose(evaluation: Evaluation, count: int, checks: int, seed: int) -> list[Question]:
    """`count` questions and `checks` attention checks, in a random order; the same for the same seed.

    The questions are spread evenly over both kinds and all pairs of methods, and in each of these over the people. The
    two pictures of a question have the same prompt and seed. Raises UsageError if there are not enough pictures.
    """
    random = np.random.default_rng(seed)
    pairs = [*_questions(evaluation, count, random), *_checks(evaluation, checks, random)]
    digits = len(str(len(pairs)))
    found = []
    for number, index in enumerate(random.permutation(len(pairs)), 1):
        pair = pairs[index]
        a_is_first = bool(random.integers(2))
        a, b = (pair.first, pair.second) if a_is_first else (pair.second, pair.first)
        answer = ("a" if a_is_first else "b") if pair.known else ""
        found.append(
            Question(
                id=f"q{number:0{digits}d}",
                kind=pair.kind,
                person=pair.place.person,
                prompt=pair.place.prompt,
                a=a,
                b=b,
                answer=answer,
            )
        )
    return found


def _questions(evaluation: Evaluation, count: int, random: np.random.Generator) -> list[_Pair]:
    cells = [
        iter(_cell(evaluation, kind, first, second, random))
        for first, second in itertools.combinations(evaluation.methods, 2)
        for kind in KINDS
    ]
    order = [cells[each] for each in random.permutation(len(cells))]  # the last round may not reach all of them
    found: list[_Pair] = []
    while len(found) < count:
        one_round = [pair for pair in (next(each, None) for each in order) if pair is not None]
        if not one_round:
            raise UsageError(
                f"the evaluation has pictures for {len(found)} questions, not for {count}",
                _advice(evaluation, len(found)),
            )
        found += one_round
    return found[:count]


def _advice(evaluation: Evaluation, count: int) -> str:
    """What to do where the evaluation has pictures for `count` questions only."""
    finish = "finish the evaluation with the same `pmagic eval` command"
    if not count:
        return finish if evaluation.missing else "evaluate people with two methods that differ"
    return f"give --questions {count}" + f", or {finish}" * bool(evaluation.missing)


def _cell(
    evaluation: Evaluation, kind: str, first: Method, second: Method, random: np.random.Generator
) -> Iterator[_Pair]:
    """The pairs of two methods in a random order in which the people take turns.

    Pictures that two methods share are left out.
    """
    seen: dict[int, int] = {}
    turns = []
    for place in _shuffled(sorted(evaluation.pictures), random):
        of = evaluation.pictures[place]
        if first.key in of and second.key in of and of[first.key].path != of[second.key].path:
            turns.append((seen.get(place.person, 0), place))
            seen[place.person] = seen.get(place.person, 0) + 1
    for _, place in sorted(turns, key=lambda each: each[0]):
        of = evaluation.pictures[place]
        yield _Pair(kind, place, Choice(of[first.key].path, first.key), Choice(of[second.key].path, second.key))


def _checks(evaluation: Evaluation, count: int, random: np.random.Generator) -> list[_Pair]:
    """Attention checks, evenly of both kinds where the evaluation has both."""
    ways = [each for each in (_identity_check, _text_check) if each(evaluation, random) is not None]
    if count and not ways:
        raise UsageError(
            "the evaluation has no pair for an attention check: that takes two people, or pictures of two prompts "
            "that CLIP finds right",
            "evaluate more people or prompts, or give --checks 0",
        )
    found: list[_Pair] = []
    for number in range(count):
        some = (ways[number % len(ways)](evaluation, random) for _ in range(_DRAWS))
        of_two = [each for each in some if each is not None]
        found.append(next((each for each in of_two if each not in found), of_two[0]))
    return found


def _identity_check(evaluation: Evaluation, random: np.random.Generator) -> _Pair | None:
    """The photo learned from against a picture of another person."""
    if len(evaluation.people) < 2:
        return None
    person, other = _two(sorted(evaluation.people), random)
    places = sorted(each for each in evaluation.pictures if each.person == other)
    place = places[int(random.integers(len(places)))]
    return _Pair(IDENTITY, Place(person, place.prompt, 0), Choice(""), Choice(_any(evaluation, place, random)), True)


def _text_check(evaluation: Evaluation, random: np.random.Generator) -> _Pair | None:
    """A picture of the prompt against one of another prompt, of the same person and method. CLIP finds both right."""
    if len(evaluation.prompts) < 2:
        return None
    places = sorted(evaluation.pictures)
    for _ in range(_TRIES):
        place = places[int(random.integers(len(places)))]
        prompt, other = _two(range(1, len(evaluation.prompts) + 1), random)
        key = evaluation.methods[int(random.integers(len(evaluation.methods)))].key
        right, wrong = (
            evaluation.pictures.get(Place(place.person, each, place.k), {}).get(key) for each in (prompt, other)
        )
        if right is not None and wrong is not None and right.obeyed and wrong.obeyed:
            return _Pair(TEXT, Place(place.person, prompt, place.k), Choice(right.path), Choice(wrong.path), True)
    return None


def _any(evaluation: Evaluation, place: Place, random: np.random.Generator) -> str:
    of = sorted(evaluation.pictures[place].items())
    return of[int(random.integers(len(of)))][1].path


def _two(some: Sequence[int], random: np.random.Generator) -> tuple[int, int]:
    one, other = random.choice(some, size=2, replace=False)
    return int(one), int(other)


def _shuffled(places: Sequence[Place], random: np.random.Generator) -> list[Place]:
    return [places[each] for each in random.permutation(len(places))]
