"""The statistics of a study against known answers."""

import numpy as np
import pytest

from pmagic.experiments import study_coverage
from pmagic.study import preference


def test_the_interval_covers_a_known_preference_and_is_not_needlessly_wide() -> None:
    found = study_coverage.cover(12, 10, runs=200, seed=4)
    assert found.covered >= 183  # of 200 at 95 %: 190, and 183 is the first percentile of the binomial
    assert found.by_wilson < 170  # it takes every answer for itself, which they are not
    assert found.wide < 1.4


def test_wilson_is_that_of_the_textbook() -> None:
    """Newcombe (1998), Table I, method 3: 81 of 263, and 0 of 20."""
    assert preference.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert preference.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_a_share_counts_what_was_drop_empty() -> None:
    votes = np.array([[1, 0, np.nan], [1, np.nan, np.nan], [np.nan] * 3])
    share = preference.share(votes)
    assert (share.value, share.answers, share.participants, share.questions) == (2 / 3, 3, 2, 2)
    assert 0 <= share.low <= 2 / 3 <= share.high <= 1
    assert preference.share(np.full((2, 2), np.nan)) is None
    alone = preference.share(np.array([[1.0, 0.0, 1.0]]))
    assert alone.low is None and alone.high is None and alone.wilson[0] < 2 / 3 < alone.wilson[1]
    assert preference.share(votes) == share  # deterministic


def test_agreement_is_krippendorff_s_own_example() -> None:
    """Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, example C: four observers, nominal 0.743."""
    n = np.nan
    codes = np.array([
        [1, 2, 3, 3, 2, 1, 4, 1, 2, n, n, n],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, n, 3],
        [n, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, n],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, n],
    ])  # fmt: skip
    _, alpha = preference.agreement(codes)
    assert alpha == pytest.approx(0.743, abs=5e-4)


def test_agreement_of_those_who_agree_and_of_those_who_guess() -> None:
    same = np.array([[0.0, 1, 1, 0]] * 3)
    assert preference.agreement(same) == (1.0, 1.0)
    assert preference.agreement(np.array([[1.0, 1], [1, 1]])) == (1.0, None)
    assert preference.agreement(np.array([[1.0, np.nan], [np.nan, 1]])) == (None, None)
    guessed = np.random.default_rng(0).integers(0, 2, (30, 200)).astype(float)
    same_share, alpha = preference.agreement(guessed)
    assert same_share == pytest.approx(0.5, abs=0.01) and alpha == pytest.approx(0, abs=0.02)


def test_two_methods_have_the_strength_of_their_odds() -> None:
    wins = np.array([[[0, 30], [10, 0]]], float)
    first, second = preference.bradley_terry(wins)[0]
    assert first - second == pytest.approx(np.log(3)) and first + second == pytest.approx(0)


def test_strengths_are_those_of_a_published_example() -> None:
    """Agresti (2002), Categorical Data Analysis, Section 10.6: the American League in 1987, Baltimore as the zero."""
    teams = ("Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore")
    wins = np.array([
        [0, 7, 9, 7, 7, 9, 11],
        [6, 0, 7, 5, 11, 9, 9],
        [4, 6, 0, 7, 7, 8, 12],
        [6, 8, 6, 0, 6, 7, 10],
        [6, 2, 6, 7, 0, 7, 12],
        [4, 4, 5, 6, 6, 0, 6],
        [2, 4, 1, 3, 1, 7, 0],
    ], float)  # fmt: skip
    found = preference.bradley_terry(wins[None])[0]
    told = dict(zip(teams, found - found[teams.index("Baltimore")], strict=True))
    expected = {"Milwaukee": 1.581, "Detroit": 1.436, "Toronto": 1.294, "New York": 1.248, "Boston": 1.108,
                "Cleveland": 0.684, "Baltimore": 0.0}  # fmt: skip
    assert told == pytest.approx(expected, abs=2e-3)


def test_strengths_find_what_a_panel_was_made_with() -> None:
    random = np.random.default_rng(2)
    truth = np.array([0.9, 0.1, -1.0])
    pairs = [(0, 1), (0, 2), (1, 2)] * 20
    chance = np.array([1 / (1 + np.exp(truth[b] - truth[a])) for a, b in pairs])
    votes = (random.random((40, len(pairs))) < chance).astype(float)
    found = preference.strengths(votes, pairs, 3)
    assert [each.value for each in found] == pytest.approx(truth, abs=0.12)
    assert all(each.low < wanted < each.high for each, wanted in zip(found, truth, strict=True))
    assert sum(each.value for each in found) == pytest.approx(0)


def test_a_method_that_always_wins_has_a_finite_strength() -> None:
    found = preference.strengths(np.ones((5, 4)), [(0, 1)] * 4, 2)
    assert found[0].value - found[1].value == pytest.approx(np.log(20.5 / 0.5))
    assert np.isfinite([found[0].low, found[0].high]).all()


def test_methods_that_nothing_connects_have_no_strengths() -> None:
    assert preference.strengths(np.ones((2, 2)), [(0, 1), (2, 3)], 4) is None
    unanswered = np.array([[1.0, np.nan], [0.0, np.nan]])
    assert preference.strengths(unanswered, [(0, 1), (1, 2)], 3) is None
    assert preference.strengths(np.ones((2, 2)), [(0, 1), (1, 2)], 3) is not None
