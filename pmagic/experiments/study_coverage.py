"""How often the intervals of a study cover a known preference, on simulated panels.

python -m pmagic.experiments.study_coverage --runs 200

The log odds of an answer are 0.8 + N(0, 0.5) of the participant + N(0, 0.8) of the question.
"""

import argparse
from dataclasses import dataclass

import numpy as np

from pmagic.study import preference

MEAN, OF_PARTICIPANTS, OF_QUESTIONS = 0.8, 0.5, 0.8  # log odds, and the standard deviations of what is added to them
SIZES = ((12, 8), (20, 20), (30, 7), (50, 40))
_NODES = 80  # of Gauss and Hermite's quadrature


@dataclass(frozen=True)
class Coverage:
    """Of `runs` panels. wide: the mean width of the interval in those of a perfect one, 2 x 1.96 standard errors."""

    covered: int
    by_wilson: int
    runs: int
    wide: float


def panel(participants: int, questions: int, random: np.random.Generator) -> np.ndarray:
    """Votes of a panel in which participants and questions differ: (participants, questions), 0 or 1."""
    of_participants = random.normal(0, OF_PARTICIPANTS, participants)
    odds = MEAN + of_participants[:, None] + random.normal(0, OF_QUESTIONS, questions)[None]
    return (random.random(odds.shape) < 1 / (1 + np.exp(-odds))).astype(float)


def true_share() -> float:
    """The share that endlessly many participants and questions would give."""
    at, weight = np.polynomial.hermite_e.hermegauss(_NODES)
    odds = MEAN + np.hypot(OF_PARTICIPANTS, OF_QUESTIONS) * at
    return float((weight / weight.sum() / (1 + np.exp(-odds))).sum())


def cover(participants: int, questions: int, runs: int, seed: int = 0) -> Coverage:
    """Simulate `runs` panels, and count the intervals that hold the true share."""
    random, truth = np.random.default_rng(seed), true_share()
    shares = [preference.share(panel(participants, questions, random)) for _ in range(runs)]
    known = [
        (each.value, each.low, each.high, *each.wilson)
        for each in shares
        if each is not None and each.low is not None and each.high is not None
    ]
    value, low, high, wilson_low, wilson_high = np.array(known).T
    covered = int(((low <= truth) & (truth <= high)).sum())
    by_wilson = int(((wilson_low <= truth) & (truth <= wilson_high)).sum())
    perfect = 2 * 1.96 * float(value.std())
    return Coverage(covered, by_wilson, runs, float((high - low).mean()) / perfect)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    options = parser.parse_args()
    print("| participants | questions | over participants and questions | Wilson |\n|---|---|---|---|")
    for participants, questions in SIZES:
        found = cover(participants, questions, options.runs)
        print(f"| {participants} | {questions} | {found.covered} of {found.runs} | {found.by_wilson} of {found.runs} |")


if __name__ == "__main__":
    main()
