"""Statistics on made scores: known means, errors over people, pairs, fronts."""

import csv
import io

import numpy as np
import pytest

from pmagic.evaluation import statistics
from pmagic.evaluation.metrics import Slope
from pmagic.evaluation.statistics import Score


def scores(variant: str, values: dict[int, list[float | None]], column: str = "i_pre") -> list[Score]:
    return [
        Score(
            variant=variant,
            person=person,
            prompt=1 + k % 2,
            k=k,
            seed=k,
            values={column: value},
            place=f"{person}-{k}.png",
        )
        for person, of in values.items()
        for k, value in enumerate(of)
    ]


def test_a_person_counts_once_and_the_error_is_over_people() -> None:
    made = scores("a", {1: [0.2, 0.4], 2: [0.6, -1.0], 3: [None, 0.9]})
    (mean,) = statistics.means(made, ["a", "b"], ["i_pre", "absent"])
    each = [0.3, -0.2, 0.9]
    assert mean.value == pytest.approx(np.mean(each))
    assert mean.error == pytest.approx(np.std(each, ddof=1) / 3**0.5)
    assert (mean.people, mean.pictures) == (3, 5)


def test_one_person_has_no_error_and_no_interval() -> None:
    made = scores("a", {1: [0.5]}) + scores("b", {1: [0.75]})
    assert statistics.means(made, ["a"], ["i_pre"])[0].error is None
    (apart,) = statistics.differences(made, ["a", "b"], ["i_pre"])
    assert (apart.variant, apart.against, apart.value, apart.low) == ("b", "a", 0.25, None)


def test_differences_are_paired_over_the_people_that_have_both() -> None:
    made = scores("a", {1: [0.1], 2: [0.5], 3: [0.9]}) + scores("b", {1: [0.3], 2: [0.6], 4: [5.0]})
    (apart,) = statistics.differences(made, ["a", "b"], ["i_pre"])
    assert apart.value == pytest.approx(0.15)
    assert apart.people == 2
    assert 0.1 - 1e-9 <= apart.low <= apart.value <= apart.high <= 0.2 + 1e-9


def test_a_slope_is_read_over_people_and_has_its_standard_error() -> None:
    asked = {"copied": Slope("", "y", "x", spread=0.1)}
    xs, ys = [0.0, 1.0, 2.0, 3.0], [0.1, 0.4, 1.2, 1.5]
    made = [
        Score(variant="a", person=person, prompt=1, k=k, seed=k, values={"x": x, "y": y + side}, place="")
        for person, (x, y) in enumerate(zip(xs, ys, strict=True))
        for k, side in enumerate((-0.3, 0.3))  # each person's mean counts, once
    ]
    made += [
        Score(variant="a", person=9, prompt=1, k=0, seed=0, values={"x": 5.0, "y": None}, place="")
    ]  # nobody was found there
    (slope,) = statistics.slopes(made, ["a", "b"], asked)
    from scipy.stats import linregress

    known = linregress(xs, ys)
    assert (slope.value, slope.error) == (pytest.approx(known.slope), pytest.approx(known.stderr))
    assert (slope.variant, slope.column, slope.people, slope.pictures) == ("a", "copied", 4, 8)


def test_no_slope_is_read_where_the_photos_hardly_differ() -> None:
    asked = {"copied": Slope("", "y", "x", spread=0.1)}
    alike = [
        Score(variant="a", person=k, prompt=1, k=0, seed=0, values={"x": 0.5 + 0.01 * k, "y": 0.1 * k}, place="")
        for k in range(5)
    ]
    two = [
        Score(variant="b", person=k, prompt=1, k=0, seed=0, values={"x": 0.5 * k, "y": 0.1 * k}, place="")
        for k in range(2)
    ]
    assert statistics.slopes([*alike, *two], ["a", "b"], asked) == []


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    source = np.random.default_rng(1)
    held = [low <= 0 <= high for low, high in (statistics.interval(source.normal(0, 1, 30)) for _ in range(100))]
    assert 85 <= sum(held) <= 99
    assert statistics.interval(np.array([0.1, 0.4, 0.2])) == statistics.interval(np.array([0.1, 0.4, 0.2]))
    assert statistics.interval(np.array([0.5, 0.5])) == (0.5, 0.5)


def test_by_prompt() -> None:
    assert statistics.by_prompt(scores("a", {1: [0.2, 0.4], 2: [0.4, 0.8]}), "a", "i_pre", 3) == [
        pytest.approx(0.3),
        pytest.approx(0.6),
        None,
    ]


def test_the_front_holds_what_nothing_beats() -> None:
    points = {"a": (0.1, 0.9), "b": (0.5, 0.5), "c": (0.4, 0.4), "d": (0.9, 0.1), "same": (0.5, 0.5)}
    assert statistics.front(points) == ["a", "b", "d", "same"]


def test_the_table_is_csv_with_every_number() -> None:
    made = scores("a", {1: [0.25], 2: [0.75]}) + scores("b", {1: [0.5], 2: [1.0]})
    data = statistics.as_csv(
        statistics.means(made, ["a", "b"], ["i_pre"]), statistics.differences(made, ["a", "b"], ["i_pre"])
    )
    rows = list(csv.DictReader(io.StringIO(data.decode())))
    assert [row["kind"] for row in rows] == ["mean", "mean", "difference"]
    assert rows[0]["value"] == "0.500000" and rows[0]["standard_error"] == "0.250000" and rows[0]["people"] == "2"
    assert rows[2]["low"] == rows[2]["high"] == "0.250000"
