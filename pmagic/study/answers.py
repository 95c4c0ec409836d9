"""Reads what participants chose: files that they sent back (JSON), and files that the server wrote (JSON lines).

A choice is {"n": 3, "question": "q07", "chosen": "a", "left": "b", "seconds": 2.5}. n counts a participant's choices
from 1; of several on one question the last one holds; `chosen` is null where a participant took an answer back. These
files come from outside, so everything in them is checked.
"""

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pmagic.study.folder import Study

FORMAT, VERSION = "pmagic-study-answers", 1
MAX_CHOICES = 20  # of a participant for each question, with those taken back
_MAX_BYTES = 16 << 20  # of a file
_PARTICIPANT = re.compile(r"[0-9a-z][0-9a-z-]{0,39}")
_MAX_MACHINE = 100  # characters of a machine's description


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One choice. chosen and left: "a" or "b", which picture was taken and which was on the left; chosen may be ""."""

    n: int
    question: str
    chosen: str
    left: str
    seconds: float

    def as_dict(self) -> dict[str, object]:
        return {**vars(self), "chosen": self.chosen or None}


@dataclass
class Participant:
    """One participant. machine: what answered, "" for a person. answers: the last choice of each question."""

    id: str
    machine: str = ""
    choices: dict[int, Choice] = field(default_factory=dict)  # by n
    contradicts: bool = False  # two files differ in one choice

    @property
    def answers(self) -> dict[str, str]:
        """The picture chosen, by question."""
        last = {each.question: each.chosen for _, each in sorted(self.choices.items())}
        return {question: chosen for question, chosen in last.items() if chosen}


class Refused(ValueError):
    """Why something is no answer of this study, in words."""


def check_participant(data: object) -> str:
    if not isinstance(data, str) or not _PARTICIPANT.fullmatch(data):
        raise Refused("it names no participant")
    return data


def check_choices(data: object, questions: Collection[str]) -> list[Choice]:
    """A list of choices, checked. questions: the ids of the study. Raises Refused."""
    if not isinstance(data, list) or len(data) > MAX_CHOICES * len(questions):
        raise Refused("it has no list of choices, or too long a list")
    return [_choice(each, questions) for each in data]


def _choice(data: object, questions: Collection[str]) -> Choice:
    if not isinstance(data, dict):
        raise Refused("a choice is no object")
    n, question, chosen, left, seconds = (data.get(key) for key in ("n", "question", "chosen", "left", "seconds"))
    if not isinstance(question, str) or question not in questions:
        raise Refused("a choice is of a question that this study does not have")
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MAX_CHOICES * len(questions):
        raise Refused("a choice has no number")
    if chosen not in ("a", "b", None) or left not in ("a", "b"):
        raise Refused("a choice is neither of the two pictures")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= 86400:
        raise Refused("a choice has no seconds")
    if not math.isfinite(seconds):
        raise Refused("a choice has no seconds")
    return Choice(n=n, question=question, chosen=chosen or "", left=str(left), seconds=float(seconds))


def read(paths: Iterable[Path], study: Study) -> tuple[list[Participant], list[str]]:
    """The participants of these files, and what could not be used, one sentence each.

    Files of one participant are joined: a server's file and a file sent back may both be there.
    """
    found: dict[str, Participant] = {}
    problems = []
    questions = {each.id for each in study.questions}
    for path in paths:
        try:
            data = _bytes(path)
            parts = _lines(path, data, problems) if path.suffix == ".jsonl" else [_document(data)]
            checked = [_check(each, study, questions) for each in parts]  # all of a file or nothing of it
        except OSError as error:
            problems.append(f"{path} is left out: {error.strerror}")
        except Refused as reason:
            problems.append(f"{path} is left out: {reason}")
        else:
            for part in checked:
                _join(found, part)
    return sorted(found.values(), key=lambda each: each.id), problems


def _bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise Refused(f"it is larger than {_MAX_BYTES >> 20} MB")
    return data


def parse(data: bytes) -> Any:
    """JSON from outside. Raises Refused."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Refused("it is no JSON") from error


def _document(data: bytes) -> Mapping[str, Any]:
    found = parse(data)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise Refused("it holds no answers of a study")
    if found.get("version") != VERSION:
        raise Refused(f"its version is {found.get('version')!r:.20}, and this pmagic reads {VERSION}")
    return found


def _lines(path: Path, data: bytes, problems: list[str]) -> Iterable[Mapping[str, Any]]:
    """The lines of a server's file. One that is cut off was never acknowledged, so the page has sent it again."""
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line:
            continue
        try:
            found = parse(line)
        except Refused:
            problems.append(
                f"{path}, line {number}, cannot be read and is left out. If a stop of the server or a full disk cut it "
                "off, it was never confirmed, and the page has sent it again"
            )
            continue
        if not isinstance(found, dict):
            raise Refused(f"line {number} holds no choice")
        yield {**found, "choices": [found]}


def _check(part: Mapping[str, Any], study: Study, questions: Collection[str]) -> Participant:
    """The participant of one file or line, with its choices. Raises Refused."""
    if part.get("study") != study.id:
        raise Refused("it is of another study")
    machine = part.get("machine", "")
    if not isinstance(machine, str) or len(machine) > _MAX_MACHINE:
        raise Refused("its machine is no short text")
    who = Participant(check_participant(part.get("participant")), machine)
    _add(who, check_choices(part.get("choices"), questions))
    return who


def _join(found: dict[str, Participant], part: Participant) -> None:
    """Add the choices of one file or line to those of the same participant."""
    who = found.setdefault(part.id, part)
    who.machine = who.machine or part.machine
    who.contradicts = who.contradicts or part.contradicts
    _add(who, part.choices.values())


def _add(who: Participant, choices: Iterable[Choice]) -> None:
    for each in list(choices):
        if who.choices.setdefault(each.n, each) != each:
            who.contradicts = True


def as_document(study: str, participant: str, machine: str, made: Sequence[Choice]) -> dict[str, object]:
    """The answers of one participant as the page writes them. machine: "" for a person."""
    named = {"machine": machine} if machine else {}
    return {
        "format": FORMAT,
        "version": VERSION,
        "study": study,
        "participant": participant,
        **named,
        "choices": [each.as_dict() for each in made],
    }
