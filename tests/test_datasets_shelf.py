"""Every data set on the shelf keeps the contract, reads its own layout, and says what is wrong with another one."""

import os
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pmagic import datasets, shelf
from pmagic.datasets import folder, lfw, world, world_training
from pmagic.errors import NotFound, PmagicError, UsageError, WeightsMissing


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
    # Three photos are learned from and one is compared with: people with fewer are left out.
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
        with pytest.raises(UsageError) as caught:
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
    with pytest.raises(UsageError, match="two people with the name 'alice'"):
        folder.people(tmp_path)


def test_samples_are_seeded_and_nobody_is_drawn_twice(tmp_path: Path) -> None:
    for number in range(12):
        picture(tmp_path / f"{number}.png", number)
    everyone = folder.people(tmp_path)
    first = datasets.sample_people(everyone, 4, 3, seed=5)
    names = [who.name for each in first for who in each]
    assert len(set(names)) == 12
    assert [[who.name for who in each] for each in datasets.sample_people(everyone, 4, 3, seed=5)] == [
        names[:4],
        names[4:8],
        names[8:],
    ]
    assert [who.name for who in datasets.sample_people(everyone, 4, 1, seed=6)[0]] != names[:4]
    with pytest.raises(UsageError, match="13 different people"):
        datasets.sample_people(everyone, 13, 1, seed=5)


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
    with pytest.raises(UsageError, match="--root"):
        world.people(Path("."))


def test_snapshots_show_the_person_to_one_side_and_smaller() -> None:
    """The seed decides the layout; the portrait is the photo that is not learned from."""
    pytest.importorskip("skia")
    portraits, snapshots = (world.people(None, sort)[:40] for sort in world.PHOTOS)
    layouts = [world.snapshot(seed) for seed in range(200)]
    assert layouts[0] == world.snapshot(0) != layouts[1]
    assert all(0.22 <= min(each.x, 1 - each.x) <= 0.34 and 0.19 <= each.scale <= 0.26 for each in layouts)
    assert all(0.48 <= each.y <= 0.62 and abs(each.turn) <= 12 for each in layouts)
    assert 60 < sum(each.x < 0.5 for each in layouts) < 140
    for portrait, snapshot in zip(portraits[:3], snapshots[:3], strict=True):
        assert snapshot.name == portrait.name
        assert snapshot.unseen[0]().sha256 == portrait.learned[0]().sha256
        mask = np.asarray(snapshot.mask()) > 127
        middle, seed = np.nonzero(mask)[1].mean() / world.SIDE, world.held_out() + int(snapshot.name.split()[1])
        assert middle == pytest.approx(world.snapshot(seed).x, abs=0.04)
        assert 0.02 < mask.mean() < (np.asarray(portrait.mask()) > 127).mean()


def test_training_people_are_seen_and_the_panel_is_in_no_sample() -> None:
    pytest.importorskip("skia")
    held_out = {who.name for who in world.people(None)}
    assert not held_out & {who.name for who in world.panel()}
    assert world.held_out() >= world_training.FIRST + world_training.PEOPLE
    assert len({who.name for who in world_training.people(None)}) == world_training.PEOPLE
    for who in world.panel("snapshots"):
        assert who.drawings.keys() == set(world.PROMPTS)
    drawings = [who.drawings[prompt]().sha256 for who in world.panel()[:2] for prompt in world.PROMPTS]
    assert len(set(drawings)) == 2 * len(world.PROMPTS)


def test_every_world_prompt_asks_for_its_own_scene() -> None:
    assert len({tuple(scene.items()) for scene in world.SCENES.values()}) == len(world.SCENES)


def test_a_photo_that_cannot_be_read_is_a_problem_of_that_person(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    who = folder.people(tmp_path)[0]
    with pytest.raises(PmagicError, match="not a JPEG"):
        who.learned[0]()


def test_lfw_that_was_fetched_before_is_not_fetched_again(home: Path) -> None:
    labelled(home / "models" / "datasets" / "lfw_home")
    assert lfw.fetches() == ""
    assert [who.name for who in lfw.people(None)] == ["Ada_Lovelace", "Carl_Gauss"]


@pytest.fixture
def fetching(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A stub of scikit-learn's fetch; like the real one, it takes an existing folder for the whole data set."""
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


def test_every_ending_of_a_photo_is_a_person_and_the_rest_is_told(tmp_path: Path) -> None:
    endings = (".jpg", ".JPG", ".jpe", ".jfif", ".JPEG", ".png", ".webp", ".heic", ".avif", ".bmp", ".tif", ".gif", "")
    for number, ending in enumerate(endings):
        (tmp_path / f"p{number:02d}{ending}").write_bytes(picture(tmp_path / "made" / "x.jpg", number).read_bytes())
    (tmp_path / "made" / "x.jpg").unlink()
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "README").write_text("x")
    (tmp_path / ".DS_Store").write_text("x")
    (tmp_path / "Thumbs.db").write_text("x")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert [who.name for who in folder.people(tmp_path)] == [f"p{number:02d}" for number in range(len(endings))]
    assert folder.left_out(tmp_path) == [
        "files whose ending is not that of a photo: README, notes.txt",
        "links to nothing, and what is no file: gone.jpg, pipe.jpg",
        "folders without a photo: made",
    ]


def test_deeper_people_are_found_and_folders_of_systems_are_not_people(tmp_path: Path) -> None:
    for place in ("ann/1.jpg", "friends/ben/1.jpg", "friends/cat/1.jpg", "ann/edited/1.jpg"):
        picture(tmp_path / place)
    for system in ("@eaDir", "$RECYCLE.BIN", "__MACOSX", ".trash"):
        picture(tmp_path / system / "1.jpg")
        picture(tmp_path / "friends" / system / "1.jpg")
    (tmp_path / "friends" / "loop").symlink_to(tmp_path)
    assert [who.name for who in folder.people(tmp_path)] == ["ann", "ben", "cat"]
    assert folder.left_out(tmp_path) == ["folders inside a person's folder: ann/edited"]


def test_a_folder_too_deep_is_told(tmp_path: Path) -> None:
    picture(tmp_path / "ann.jpg")
    picture(tmp_path / "1" / "2" / "3" / "4" / "5" / "x.jpg")
    assert [who.name for who in folder.people(tmp_path)] == ["ann"]
    assert folder.left_out(tmp_path) == ["folders more than 4 deep: 1/2/3/4/5"]


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("ffhq", ["00000.png", "00001.png"]),
        ("ffhq", ["ffhq/images1024x1024/00000/00000.png", "ffhq/images1024x1024/01000/01000.png"]),
        ("ffhq", ["data/00000.png", "data/00001.png"]),
        ("celeba_hq", ["celeba/CelebA-HQ-img/0.jpg", "celeba/CelebA-HQ-img/1.jpg"]),
        ("celeba_hq", ["train/male/000004.jpg", "train/female/000001.jpg", "val/male/000009.jpg"]),
    ],
)
def test_other_layouts_of_numbered_photos(tmp_path: Path, name: str, places: list[str]) -> None:
    for number, place in enumerate(places):
        picture(tmp_path / place, number)
    picture(tmp_path / "sample-grid.jpg")
    found = shelf.take("datasets", name)
    assert sorted(who.name for who in found.people(tmp_path)) == sorted(Path(place).stem for place in places)
    assert found.left_out(tmp_path) == ["photos whose name is not a number: sample-grid.jpg"]


def test_a_number_that_is_there_twice_counts_once_and_is_told(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.jpg")
    picture(tmp_path / "b" / "1.jpg")
    found = shelf.take("datasets", "celeba_hq")
    assert [who.name for who in found.people(tmp_path)] == ["1"]
    assert found.left_out(tmp_path) == ["photos whose number is taken: b/1.jpg"]


def test_lfw_is_found_however_deep_it_was_unpacked(tmp_path: Path) -> None:
    labelled(tmp_path / "lfw-deepfunneled" / "lfw-deepfunneled")
    assert [who.name for who in lfw.people(tmp_path)] == ["Ada_Lovelace", "Carl_Gauss"]
    assert lfw.left_out(tmp_path) == ["1 people with fewer than 4 photos"]


@pytest.mark.parametrize(
    ("packed", "advice"),
    [("lfw-funneled.tgz", "tar -xf"), ("archive.zip", "zipfile -e"), ("x.7z", "program that packed")],
)
def test_a_packed_data_set_is_told_to_be_unpacked(tmp_path: Path, packed: str, advice: str) -> None:
    (tmp_path / packed).write_bytes(b"x")
    for root in (tmp_path, tmp_path / packed):
        with pytest.raises(NotFound) as caught:
            lfw.people(root)
        assert packed in caught.value.what and advice in caught.value.next_step


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_folder_is_one_message(tmp_path: Path) -> None:
    picture(tmp_path / "ann" / "1.jpg")
    (tmp_path / "ann").chmod(0)
    with pytest.raises(UsageError, match="cannot be read"):
        folder.people(tmp_path)


def test_without_the_drawing_library_the_world_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is learned, and not once for each person."""
    monkeypatch.setitem(sys.modules, "skia", None)
    for name in [each for each in sys.modules if each.startswith("pmagic.world")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("pmagic.world.drawing", raising=False)
    with pytest.raises(WeightsMissing) as caught:
        world.people(None)
    assert "pip install opencv-python scikit-image skia-python" in caught.value.next_step
