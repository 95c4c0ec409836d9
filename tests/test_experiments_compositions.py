"""The measurement of compose, on pictures whose answers are known: the world's own."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from PIL import Image
from tiny import tiny_folders  # noqa: F401 - a fixture

from pmagic import api
from pmagic.experiments import compositions
from pmagic.world.scenes import PORTRAIT

PEOPLE = 3
STAND = [replace(PORTRAIT, scale=0.22, x=x) for x in (0.27, 0.73)]


@pytest.mark.parametrize(
    ("drawn", "asked", "expected"),
    [
        ((0, 1), (0, 1), {"two faces": 1.0, "each at its place": 1.0, "recognised": 1.0}),
        ((0, 1), (1, 0), {"two faces": 1.0, "each at its place": 0.0, "recognised": 0.0}),
        ((0, 1), (0, 2), {"two faces": 1.0, "each at its place": 1.0, "recognised": 0.5}),
        ((0,), (0, 1), {"two faces": 0.0, "each at its place": 0.0, "recognised": 0.5}),
    ],
)
def test_two_people_are_found_recognised_and_told_apart(
    drawn: tuple[int, ...], asked: tuple[int, int], expected: dict[str, float]
) -> None:
    picture = compositions._world(*zip(drawn, STAND, strict=False))
    scores = compositions._both(picture, asked, PEOPLE)
    assert {name: scores[name] for name in expected} == expected


def test_a_picture_without_a_face_is_like_nobody() -> None:
    empty = Image.new("RGB", (64, 64), "white")
    assert compositions.inspect_face(empty, 0, PEOPLE) == {"identity": -1.0, "recognised": 0.0}
    scores = compositions._both(empty, (0, 1), PEOPLE)
    assert scores == {"two faces": 0.0, "each at its place": 0.0, "identity": -1.0, "recognised": 0.0}


def test_a_portrait_is_its_own_likeness() -> None:
    scores = compositions.inspect_face(compositions.portrait(compositions.FIRST + 1), 1, PEOPLE)
    assert scores["identity"] == pytest.approx(1, abs=1e-5) and scores["recognised"] == 1


def test_what_is_learned_is_kept_and_learned_once(
    tiny_folders: dict[str, Path],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = api.open_base(str(tiny_folders["sd1"]), device="cpu", dtype="float32")
    monkeypatch.setattr(compositions, "open_base", lambda: base)
    options = compositions.Options(tmp_path, people=1, recipe="reference", iterations=2, steps=2)
    for _ in range(2):
        compositions.learn(options, "style-oil", [tiny.photo(3), tiny.photo(4)], "painting", True)
    persona = api.load("style-oil", library=tmp_path)
    assert (persona.word, persona.settings["iterations"], len(persona.photos)) == ("painting", 2, 2)
    assert compositions.Library(tmp_path).versions("style-oil") == [1]
