"""The Python API, used as a notebook uses it."""

import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from PIL import Image
from tiny import tiny_folders  # noqa: F401 - a fixture

import pmagic
from pmagic.bases.loading import Base
from pmagic.persona import Persona

FAST = {"iterations": 3, "stages": (300, 700)}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("library")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "alice.png"
    tiny.photo(3).save(path)
    return path


@pytest.fixture(scope="module")
def opened(tiny_folders: dict[str, Path]) -> Base:  # noqa: F811
    return pmagic.open_base(str(tiny_folders["sd1"]), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def alice(opened: Base, photo: Path) -> Persona:
    return pmagic.learn(photo, base=opened, recipe="reference", **FAST)


def test_a_persona_is_learned_saved_loaded_and_drawn(alice: Persona, opened: Base, home: Path) -> None:
    assert alice.bounds == pmagic.StageBounds(300, 700)
    assert alice.preview.startswith(b"\x89PNG")
    assert pmagic.save(alice, "alice", library=home) == "alice@1"
    again = pmagic.load("alice@1", library=home)
    assert {name: array.tobytes() for name, array in again.tensors.items()} == {
        name: array.tobytes() for name, array in alice.tensors.items()
    }
    assert pmagic.save(alice, "alice", library=home) == "alice@2"
    pictures = pmagic.render(again, "as a cowboy", n=2, seed=5, steps=2, base=opened, exact=True)
    assert [each.info["pmagic"]["seed"] for each in pictures] == [5, 6]
    assert pictures[0].info["pmagic"]["prompt"] == "a photo of <unsaved> as a cowboy"
    assert pictures[0].size == (opened.size, opened.size)
    (same,) = pmagic.render(alice, "as a cowboy", seed=6, steps=2, base=opened)
    assert same.tobytes() == pictures[1].tobytes()


def test_a_picture_in_memory_is_a_photo(alice: Persona, opened: Base, photo: Path) -> None:
    image = Image.open(photo).convert("RGB")
    again = pmagic.learn(image, base=opened, recipe="reference", **FAST)
    assert again.tensors.keys() == alice.tensors.keys()
    for name, array in again.tensors.items():
        assert array.tobytes() == alice.tensors[name].tobytes(), name


def test_steps_are_reported_and_may_stop_the_learning(opened: Base, photo: Path) -> None:
    seen = []
    pmagic.learn(
        photo, base=opened, recipe="reference", on_step=lambda report: seen.append((report.step, report.total)), **FAST
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]

    def stop(report: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pmagic.learn(photo, base=opened, recipe="reference", on_step=stop, **FAST)


def test_two_personas_are_drawn_together(alice: Persona, opened: Base) -> None:
    pictures = pmagic.compose(
        {"alice": alice, "bob": alice},
        "{alice} and {bob} in the snow",
        layout={"alice": (0, 0, 0.5, 1), "bob": (0.5, 0, 1, 1)},
        steps=2,
        base=opened,
    )
    about = pictures[0].info["pmagic"]
    assert (about["prompt"], about["layout"]) == ("{alice} and {bob} in the snow", "0,0,50,100;50,0,50,100")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda alice, base: pmagic.render(alice, "<bob> at sea", base=base), "the prompt names <bob>"),
        (lambda alice, base: pmagic.render(alice, [], base=base), "there is no prompt"),
        (lambda alice, base: pmagic.render("nobody", "at sea", base=base), "there is no persona 'nobody'"),
        (lambda alice, base: pmagic.compose({"alice": alice}, "{alice} and {bob}", base=base), "no persona is given"),
        (lambda alice, base: pmagic.learn([], base=base), "there is no photo"),
        (lambda alice, base: pmagic.learn("missing.jpg", base=base), "missing.jpg"),
        (lambda alice, base: pmagic.load("nobody"), "there is no persona 'nobody'"),
    ],
)
def test_mistakes_end_in_the_family_of_errors(call: object, said: str, alice: Persona, opened: Base) -> None:
    with pytest.raises(pmagic.PmagicError, match=said):
        call(alice, opened)


def test_importing_needs_neither_torch_nor_time() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import pmagic; took = time.perf_counter() - start\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules; pmagic.learn, pmagic.PmagicError\n"
        "assert 'torch' not in sys.modules; print(took)"
    )
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    assert min(times) < 0.05


def test_every_public_name_is_there_and_documented() -> None:
    for name in pmagic.__all__:
        assert getattr(pmagic, name).__doc__
    assert not hasattr(pmagic, "no_such_name")
