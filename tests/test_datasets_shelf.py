"""Every data set on the shelf keeps the contract, reads its own layout, and says what is wrong with another one."""

import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pmagic import datasets, shelf
from pmagic.datasets import folder, lfw, world
from pmagic.errors import NotFound, Problem, UsageProblem, WeightsMissing


def picture(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40), (16 * shade % 256, 40, 90)).save(path)
    return path


def celeba_hq(root: Path) -> None:
    for number in (10, 2, 0):
        picture(root / "CelebA-HQ-img" / f"{number}.jpg", number)
    (root / "README.txt").write_text("x")


def ffhq(root: Path) -> None:
    for number in (0, 1, 1000):
        picture(root / "images1024x1024" / f"{number // 1000 * 1000:05d}" / f"{number:05d}.png", number)


def labelled(root: Path) -> None:
    for name, count in (("Ada_Lovelace", 5), ("Bo", 1), ("Carl_Gauss", 4)):
        for number in range(1, count + 1):
            picture(root / "lfw_funneled" / name / f"{name}_{number:04d}.jpg", number)
    (root / "pairs.txt").write_text("")


def plain(root: Path) -> None:
    picture(root / "alice.PNG")
    picture(root / "bruno" / "2.jpg", 2)
    picture(root / "bruno" / "10.jpg", 10)
    (root / "empty").mkdir()
    (root / ".hidden.jpg").write_bytes(b"")


LAYOUTS: dict[str, Callable[[Path], None]] = {"celeba_hq": celeba_hq, "ffhq": ffhq, "folder": plain, "lfw": labelled}


@pytest.mark.parametrize("name", shelf.names("datasets"))
def test_contract(name: str, tmp_path: Path) -> None:
    source = shelf.take("datasets", name)
    assert source.WANTED and source.WHERE and (name == "lfw" or source.fetches() == "")
    assert source.PROMPTS is None or all("{}" in prompt for prompt in source.PROMPTS)
    root = None
    if name in LAYOUTS:
        LAYOUTS[name](tmp_path)
        root = tmp_path
    found = source.people(root)
    assert len({who.name for who in found}) == len(found) > 0
    first = found[0]
    photos = [read() for read in (*first.learned, *first.unseen)]
    assert len({each.sha256 for each in photos}) == len(photos)
    assert all(each.image.mode == "RGB" for each in photos)


def test_layouts_give_the_people_that_are_in_them(tmp_path: Path) -> None:
    for name, build in LAYOUTS.items():
        build(tmp_path / name) if (tmp_path / name).mkdir() is None else None
    people = {name: shelf.take("datasets", name).people(tmp_path / name) for name in LAYOUTS}
    assert [who.name for who in people["celeba_hq"]] == ["0", "2", "10"]
    assert [who.name for who in people["ffhq"]] == ["00000", "00001", "01000"]
    # Three photos are learned from and one is kept: who has fewer is not there.
    assert [(who.name, len(who.learned), len(who.unseen)) for who in people["lfw"]] == [
        ("Ada_Lovelace", 3, 1),
        ("Carl_Gauss", 3, 1),
    ]
    assert [(who.name, len(who.learned), len(who.unseen)) for who in people["folder"]] == [
        ("alice", 1, 0),
        ("bruno", 1, 1),
    ]
    bruno = people["folder"][1]
    assert (bruno.learned[0]().path.name, bruno.unseen[0]().path.name) == ("2.jpg", "10.jpg")


@pytest.mark.parametrize("name", ["celeba_hq", "ffhq", "lfw"])
def test_a_folder_itself_is_taken_as_well_as_the_one_above(name: str, tmp_path: Path) -> None:
    LAYOUTS[name](tmp_path)
    inner = next(each for each in tmp_path.iterdir() if each.is_dir())
    source = shelf.take("datasets", name)
    assert [who.name for who in source.people(inner)] == [who.name for who in source.people(tmp_path)]


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_a_wrong_layout_says_what_was_expected_and_what_was_found(name: str, tmp_path: Path) -> None:
    source = shelf.take("datasets", name)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "other").mkdir()
    with pytest.raises(NotFound) as caught:
        source.people(tmp_path)
    assert source.WANTED in caught.value.what
    assert "found there: notes.txt, other/" in caught.value.what
    with pytest.raises(NotFound, match="no folder"):
        source.people(tmp_path / "absent")


def test_without_a_root_it_says_where_to_get_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("celeba_hq", "ffhq", "folder"):
        with pytest.raises(UsageProblem) as caught:
            shelf.take("datasets", name).people(None)
        assert caught.value.next_step == shelf.take("datasets", name).WHERE
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(WeightsMissing, match="scikit-learn"):
        lfw.people(None)


@pytest.mark.parametrize("other", ["alice/1.jpg", "alice.jpg"])
def test_two_people_of_one_name_are_refused(tmp_path: Path, other: str) -> None:
    picture(tmp_path / "alice.png")
    picture(tmp_path / other)
    with pytest.raises(UsageProblem, match="two people of the name 'alice'"):
        folder.people(tmp_path)


def test_samples_are_seeded_and_nobody_is_drawn_twice(tmp_path: Path) -> None:
    for number in range(12):
        picture(tmp_path / f"{number}.png", number)
    everyone = folder.people(tmp_path)
    first = datasets.drawn(everyone, 4, 3, seed=5)
    names = [who.name for each in first for who in each]
    assert len(set(names)) == 12
    assert [[who.name for who in each] for each in datasets.drawn(everyone, 4, 3, seed=5)] == [
        names[:4],
        names[4:8],
        names[8:],
    ]
    assert [who.name for who in datasets.drawn(everyone, 4, 1, seed=6)[0]] != names[:4]
    with pytest.raises(UsageProblem, match="13 different people"):
        datasets.drawn(everyone, 13, 1, seed=5)


def test_the_world_is_held_out_and_knows_its_people() -> None:
    pytest.importorskip("skia")
    from pmagic.world.people import HELD_OUT

    people = world.people(None)
    assert world.FIRST + HELD_OUT > HELD_OUT and len(people) == world.PEOPLE
    who = people[3]
    portrait, other, mask = who.learned[0](), who.unseen[0](), who.mask()
    assert portrait.image.size == mask.size == (world.SIDE, world.SIDE)
    assert portrait.image.tobytes() != other.image.tobytes()
    assert portrait.sha256 == world.people(None)[3].learned[0]().sha256
    share = sum(mask.histogram()[128:]) / world.SIDE**2
    assert 0.1 < share < 0.6  # the face, and not the whole picture
    assert who.traits
    with pytest.raises(UsageProblem, match="--root"):
        world.people(Path("."))


def test_every_world_prompt_asks_for_its_own_scene() -> None:
    assert len({tuple(scene.items()) for scene in world.SCENES.values()}) == len(world.SCENES)


def test_a_photo_that_cannot_be_read_is_a_problem_of_that_person(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    who = folder.people(tmp_path)[0]
    with pytest.raises(Problem, match="not a JPEG"):
        who.learned[0]()


def test_lfw_that_was_fetched_before_is_not_fetched_again(home: Path) -> None:
    labelled(home / "models" / "datasets" / "lfw_home")
    assert lfw.fetches() == ""
    assert [who.name for who in lfw.people(None)] == ["Ada_Lovelace", "Carl_Gauss"]


@pytest.fixture
def fetching(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """scikit-learn's fetch as a stub; as the real one it takes a folder that is there for the whole data set."""
    called: list[Path] = []

    def fetch(data_home: str, **more: object) -> None:
        inside = Path(data_home) / "lfw_home"
        called.append(inside)
        if not (inside / "lfw_funneled").exists():
            labelled(inside)
            (inside / "lfw-funneled.tgz").unlink(missing_ok=True)

    stub = types.ModuleType("sklearn.datasets")
    stub.fetch_lfw_people = fetch
    monkeypatch.setitem(sys.modules, "sklearn", types.ModuleType("sklearn"))
    monkeypatch.setitem(sys.modules, "sklearn.datasets", stub)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    return called


def test_a_half_unpacked_lfw_is_fetched_again(fetching: list[Path], home: Path) -> None:
    inside = home / "models" / "datasets" / "lfw_home"
    picture(inside / "lfw_funneled" / "Ada_Lovelace" / "Ada_Lovelace_0001.jpg")
    (inside / "lfw-funneled.tgz").write_bytes(b"archive")
    assert "LFW" in lfw.fetches()
    assert [who.name for who in lfw.people(None)] == ["Ada_Lovelace", "Carl_Gauss"]
    assert fetching == [inside] and lfw.fetches() == ""
    lfw.people(None)
    assert fetching == [inside]


def test_lfw_is_not_fetched_offline(fetching: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsMissing, match="HF_HUB_OFFLINE"):
        lfw.people(None)
    assert not fetching
