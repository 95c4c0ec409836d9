"""The results of a study as values: who counts, how often each method is preferred, strengths, agreement, caveats."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pmagic import methods as shelf_of_methods
from pmagic.evaluation import published
from pmagic.study import preference
from pmagic.study.answers import Participant
from pmagic.study.folder import Study
from pmagic.study.preference import Share, Strength
from pmagic.study.questions import KINDS, Question
from pmagic.study.source import Method

MIN_RIGHT, MIN_CHECKS = 0.8, 3  # the share of checks answered right, and how many must be answered
_SHOWN = 6  # participants whom a sentence lists
FEW_RIGHT = 0.75  # a check that fewer participants get right is doubtful itself


@dataclass(frozen=True, kw_only=True)
class Compared:
    """How often `first` was preferred over `second`. paper: the paper's share and ±, from 0 to 1, None without."""

    kind: str
    first: Method
    second: Method
    share: Share
    paper: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The results of one kind of question. strengths: by the method's key, None if the answers do not give them."""

    kind: str
    compared: Sequence[Compared]
    strengths: Mapping[str, Strength] | None
    same: float | None  # the share of pairs of answers to one question that agree
    alpha: float | None  # Krippendorff's


@dataclass(frozen=True, kw_only=True)
class Results:
    """participants: those who count. left_out: the reason for each other one. problems: files and lines not used."""

    study: Study
    participants: Sequence[Participant]
    left_out: Mapping[str, str]
    kinds: Sequence[Kind]
    checks: Mapping[str, tuple[int, int]]  # by question: right answers, and all, of everyone
    problems: Sequence[str]

    @property
    def machines(self) -> list[Participant]:
        return [each for each in self.participants if each.machine]


def summarize(study: Study, everyone: Sequence[Participant], problems: Sequence[str]) -> Results:
    """Apply the rule to the participants, and count the answers of those who remain."""
    left_out = {each.id: reason for each in everyone if (reason := why_left_out(each, study))}
    counted = [each for each in everyone if each.id not in left_out]
    return Results(
        study=study,
        participants=counted,
        left_out=left_out,
        kinds=[found for kind in KINDS if (found := _kind(study, counted, kind)) is not None],
        checks={each.id: _right(each, everyone) for each in study.checks},
        problems=problems,
    )


def rule_text(study: Study) -> str:
    """Who is left out, in one sentence."""
    if not study.checks:
        return "The study has no attention checks, so everyone with an answer counts."
    return (
        f"Participants are left out if they answered fewer than {_needed(study)} of the {len(study.checks)} attention "
        f"checks, or fewer than {MIN_RIGHT:.0%} of these right."
    )


def why_left_out(participant: Participant, study: Study) -> str:
    """The reason why a participant does not count; "" for one who does."""
    answers = participant.answers
    done = [each for each in study.checks if each.id in answers]
    right = sum(answers[each.id] == each.answer for each in done)
    if participant.contradicts:
        return "two files of this participant contradict each other"
    if not answers:
        return "no question is answered"
    if len(done) < _needed(study):
        return f"only {len(done)} of {len(study.checks)} attention checks are answered"
    if right < MIN_RIGHT * len(done):
        return f"{len(done) - right} of {len(done)} attention checks are wrong"
    return ""


def caveats(found: Results) -> list[str]:
    """The limitations of the results, one sentence each."""
    lines = []
    if found.machines:
        names = _listed([f"{each.id} ({each.machine})" for each in found.machines])
        lines.append(
            f"{len(found.machines)} of {len(found.participants)} participants are machines: {names}. "
            "What machines choose is not what people prefer"
        )
    unfinished = [each.id for each in found.participants if len(each.answers) < len(found.study.questions)]
    if unfinished:
        lines.append(f"not all questions were answered by {_listed(unfinished)}; the answers given count")
    for question, (right, of) in found.checks.items():
        if of and right < FEW_RIGHT * of:
            lines.append(f"the attention check {question} was answered right by {right} of {of}: look at it yourself")
    if found.participants and any(each.strengths is None for each in found.kinds):
        lines.append("some methods were never compared with the others, so there are no Bradley-Terry strengths")
    return lines


def document(found: Results) -> dict[str, object]:
    """All of it as plain values, for --json and results.json."""
    return {
        "study": found.study.id,
        "about": dict(found.study.about),
        "participants": [
            {"id": each.id, "machine": each.machine, "answers": len(each.answers)} for each in found.participants
        ],
        "left_out": dict(found.left_out),
        "rule": rule_text(found.study),
        "preferences": [
            {
                "kind": each.kind,
                "method": each.first.key,
                "over": each.second.key,
                **vars(each.share),
                "paper": each.paper,
            }
            for kind in found.kinds
            for each in kind.compared
        ],
        "strengths": {
            kind.kind: kind.strengths and {key: vars(each) for key, each in kind.strengths.items()}
            for kind in found.kinds
        },
        "agreement": {kind.kind: {"same": kind.same, "alpha": kind.alpha} for kind in found.kinds},
        "checks": {question: {"right": right, "of": of} for question, (right, of) in found.checks.items()},
        "paper": published.PREFERENCES_SOURCE,
        "caveats": caveats(found),
        "problems": list(found.problems),
    }


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more


def _needed(study: Study) -> int:
    return min(MIN_CHECKS, len(study.checks))


def _right(check: Question, everyone: Sequence[Participant]) -> tuple[int, int]:
    given = [each.answers[check.id] for each in everyone if check.id in each.answers]
    return sum(each == check.answer for each in given), len(given)


def _kind(study: Study, counted: Sequence[Participant], kind: str) -> Kind | None:
    """The results of one kind of question; None where nobody answered one."""
    keys = [each.key for each in study.methods]
    asked = [each for each in study.questions if each.kind == kind and not each.answer]
    pairs = [_pair(each, keys) for each in asked]
    votes = np.array([[_vote(who, each, pair, keys) for each, pair in zip(asked, pairs, strict=True)]
                      for who in counted]).reshape(len(counted), len(asked))  # (P, I)  # fmt: skip
    if not np.isfinite(votes).any():
        return None
    compared = []
    for first, second in itertools.combinations(range(len(keys)), 2):
        of_pair = [index for index, pair in enumerate(pairs) if pair == (first, second)]
        share = preference.share(votes[:, of_pair]) if of_pair else None
        if share is not None:
            compared.append(_compared(kind, study.methods[first], study.methods[second], share))
    strengths = preference.strengths(votes, pairs, len(keys))
    same, alpha = preference.agreement(_codes(counted, asked))
    return Kind(
        kind=kind,
        compared=compared,
        strengths=dict(zip(keys, strengths, strict=True)) if strengths else None,
        same=same,
        alpha=alpha,
    )


def _pair(question: Question, keys: Sequence[str]) -> tuple[int, int]:
    """The two methods of a question, in the order of the study."""
    first, second = sorted(keys.index(each.method) for each in (question.a, question.b))
    return first, second


def _vote(who: Participant, question: Question, pair: tuple[int, int], keys: Sequence[str]) -> float:
    chosen = who.answers.get(question.id)
    if chosen is None:
        return np.nan
    return float((question.a if chosen == "a" else question.b).method == keys[pair[0]])


def _codes(counted: Sequence[Participant], asked: Sequence[Question]) -> np.ndarray:
    """Which picture was chosen, 0 for a and 1 for b: (P, I). Which one is a was decided by lot."""
    codes = {"a": 0.0, "b": 1.0}
    rows = [[codes.get(who.answers.get(each.id, ""), np.nan) for each in asked] for who in counted]
    return np.array(rows, float).reshape(len(counted), len(asked))


def _compared(kind: str, first: Method, second: Method, share: Share) -> Compared:
    return Compared(kind=kind, first=first, second=second, share=share, paper=_paper(kind, first, second))


def _paper(kind: str, first: Method, second: Method) -> tuple[float, float] | None:
    """The paper's share for the two methods, if one of them is the paper's own."""
    for one, other, turned in ((first, second, False), (second, first, True)):
        if one.name == shelf_of_methods.DEFAULT and other.name in published.PREFERENCES:
            percent, spread = published.PREFERENCES[other.name][kind]
            return (100 - percent if turned else percent) / 100, spread / 100
    return None
