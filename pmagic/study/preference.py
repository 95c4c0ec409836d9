"""Statistics of forced choices: shares with intervals, Bradley-Terry strengths, agreement.

A matrix of votes has one row for each participant and one column for each question: 1, 0, or nan without an answer.
"""

# P participants . I questions . R resamples . M methods

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE, RESAMPLES = 0.95, 2000
_STEPS, _SMALL, _LARGEST_STEP = 100, 1e-10, 1.0  # of Newton's method
PRIOR = 0.5  # wins added to each side of each pair that was compared, so that strengths stay finite


@dataclass(frozen=True, kw_only=True)
class Share:
    """The share of the answers that are 1. low, high: over participants and questions; None if either is one alone.

    wilson: the interval if every answer stood for itself.
    """

    value: float
    low: float | None
    high: float | None
    wilson: tuple[float, float]
    answers: int
    participants: int
    questions: int


@dataclass(frozen=True, kw_only=True)
class Strength:
    """A Bradley-Terry strength in log odds; the mean over all methods is 0. low, high: as in Share."""

    value: float
    low: float | None
    high: float | None


def share(votes: np.ndarray) -> Share | None:
    """The share of ones in votes (P, I) with its intervals; None without an answer. Deterministic."""
    votes = _drop_empty(votes)
    count = int(np.isfinite(votes).sum())
    if not count:
        return None
    wins = int(np.nansum(votes))
    low, high = None, None
    if min(votes.shape) > 1:
        people, questions = _resamples(votes.shape)
        low, high = _interval(_weighted(people, np.nan_to_num(votes), questions) / _total(people, votes, questions))
    return Share(
        value=wins / count,
        low=low,
        high=high,
        wilson=wilson(wins, count),
        answers=count,
        participants=votes.shape[0],
        questions=votes.shape[1],
    )


def wilson(wins: int, count: int) -> tuple[float, float]:
    """Wilson's interval of a share (Wilson 1927)."""
    from scipy.stats import binomtest

    found = binomtest(wins, count).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def strengths(votes: np.ndarray, pairs: Sequence[tuple[int, int]], methods: int) -> list[Strength] | None:
    """Bradley-Terry strengths (Bradley and Terry 1952) of all methods, with bootstrap intervals.

    votes: (P, I), 1 where the first method of the question's pair was chosen. pairs: the two methods of each question.
    None if the answers do not connect all methods with each other.
    """
    chosen = [pair for pair, column in zip(pairs, votes.T, strict=True) if np.isfinite(column).any()]
    compared = np.zeros((methods, methods))
    for first, second in chosen:
        compared[first, second] = compared[second, first] = 1
    if not _connected(compared):
        return None
    some = _drop_empty(votes)
    once = np.ones((1, some.shape[0])), np.ones((1, some.shape[1]))
    value = bradley_terry(_wins(some, chosen, methods, *once) + PRIOR * compared)[0]
    if min(some.shape) < 2:
        return [Strength(value=float(each), low=None, high=None) for each in value]
    drawn = bradley_terry(_wins(some, chosen, methods, *_resamples(some.shape)) + PRIOR * compared)  # (R, M)
    intervals = [_interval(drawn[:, each]) for each in range(methods)]
    return [Strength(value=float(each), low=low, high=high) for each, (low, high) in zip(value, intervals, strict=True)]


def bradley_terry(wins: np.ndarray) -> np.ndarray:
    """Strengths of the largest likelihood, by Newton's method: (R, M), the mean of each row is 0.

    wins: (R, M, M), how often the method of the row was chosen over that of the column.
    """
    runs, methods, _ = wins.shape
    strength = np.zeros((runs, methods))
    games = wins + wins.transpose(0, 2, 1)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(strength[:, None, :] - strength[:, :, None]))  # (R, M, M), that the row wins
        slope = (wins - games * chance).sum(axis=2)  # (R, M)
        curve = games * chance * (1 - chance)
        hessian = curve.sum(axis=2)[:, :, None] * np.eye(methods) - curve
        step = np.linalg.solve(hessian + 1 / methods, slope[:, :, None])[:, :, 0]  # 1/M fixes the mean, which is free
        step *= np.minimum(1, _LARGEST_STEP / np.maximum(np.abs(step).max(axis=1, keepdims=True), _SMALL))
        strength += step
        if np.abs(step).max() < _SMALL:
            break
    return strength - strength.mean(axis=1, keepdims=True)


def agreement(codes: np.ndarray) -> tuple[float | None, float | None]:
    """The share of pairs of answers to one question that agree, and Krippendorff's alpha (nominal, Krippendorff 2011).

    codes: (P, I), any numbers for the alternatives, nan without an answer. Questions with one answer are left out. None
    where nothing can be compared; alpha is None, too, where only one alternative was ever chosen.
    """
    answered = np.isfinite(codes)
    codes, answered = codes[:, answered.sum(axis=0) > 1], answered[:, answered.sum(axis=0) > 1]
    if not codes.size:
        return None, None
    values = np.unique(codes[answered])
    counts = np.stack([(codes == value).sum(axis=0) for value in values])  # (alternatives, I)
    of_each = counts.sum(axis=0)  # (I,)
    agreeing = (counts * (counts - 1)).sum(axis=0)
    observed = float((agreeing / (of_each - 1)).sum() / of_each.sum())
    totals, everything = counts.sum(axis=1), counts.sum()
    expected = float((totals * (totals - 1)).sum() / (everything * (everything - 1)))
    same = float(agreeing.sum() / (of_each * (of_each - 1)).sum())
    return same, None if expected == 1 else 1 - (1 - observed) / (1 - expected)


def _drop_empty(votes: np.ndarray) -> np.ndarray:
    """The votes without participants and questions that have no answer."""
    answered = np.isfinite(votes)
    return votes[np.flatnonzero(answered.any(axis=1))][:, np.flatnonzero(answered.any(axis=0))]


def _resamples(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """How often each participant (R, P) and each question (R, I) is drawn, both with replacement (Owen 2007)."""
    random = np.random.default_rng(0)
    people, questions = (random.multinomial(each, np.full(each, 1 / each), RESAMPLES) for each in shape)
    return people.astype(float), questions.astype(float)


def _weighted(people: np.ndarray, votes: np.ndarray, questions: np.ndarray) -> np.ndarray:
    """The sum of the votes in each resample: (R,)."""
    return ((people @ votes) * questions).sum(axis=1)


def _total(people: np.ndarray, votes: np.ndarray, questions: np.ndarray) -> np.ndarray:
    """The number of answers in each resample (R,); nan for one without any."""
    found = _weighted(people, np.isfinite(votes).astype(float), questions)
    return np.where(found > 0, found, np.nan)


def _wins(
    votes: np.ndarray, pairs: Sequence[tuple[int, int]], methods: int, people: np.ndarray, questions: np.ndarray
) -> np.ndarray:
    """How often each method was chosen over each other in each resample: (R, M, M)."""
    won = (people @ np.nan_to_num(votes)) * questions  # (R, I)
    lost = (people @ np.nan_to_num(1 - votes)) * questions
    found = np.zeros((len(people), methods, methods))
    for index, (first, second) in enumerate(pairs):
        found[:, first, second] += won[:, index]
        found[:, second, first] += lost[:, index]
    return found


def _interval(values: np.ndarray) -> tuple[float, float]:
    """The percentile interval of the resamples that have a value."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)


def _connected(compared: np.ndarray) -> bool:
    """Whether every method was compared with every other, directly or through others."""
    reached = np.linalg.matrix_power(compared + np.eye(len(compared)), len(compared))
    return bool((reached > 0).all())
