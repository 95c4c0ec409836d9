"""The photos that a person gives: words for people, folders of photos, and warnings about unusual photos."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from pmagic.bases import model_spec as bases
from pmagic.cli.console import Console
from pmagic.errors import NotFound, UsageError
from pmagic.tasks import photo_input

MINI = bases.resolve("mini")
ALICE, BRUNO, _ = MINI.domain.samples


@pytest.mark.parametrize("word", ["Woman", "FACE", " man ", "lady", "Baby", "people"])
def test_a_word_for_people_asks_for_a_face_however_it_is_written(word: str) -> None:
    shown = photo_input.read(Console(), [ALICE], None, word, False)
    assert (shown.kind, shown.word) == ("face", word.strip().lower())


@pytest.mark.parametrize("word", ["Cat", "zebra", "womanizer"])
def test_any_other_word_is_an_object(word: str) -> None:
    shown = photo_input.read(Console(), [ALICE], None, word, False)
    assert (shown.kind, shown.word) == ("object", word.lower())


def test_a_face_that_is_taken_for_an_object_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    photo_input.warn_of_faces(console, MINI, photo_input.read(console, [ALICE], None, "cup", False))
    assert "'cup' is treated as an object, so the face is ignored" in capsys.readouterr().err
    assert len(console.warnings) == 1


def test_an_object_without_a_face_is_no_reason_for_a_warning(tmp_path: Path) -> None:
    Image.new("RGB", (128, 128), "green").save(tmp_path / "cup.png")
    console = Console()
    photo_input.warn_of_faces(console, MINI, photo_input.read(console, [tmp_path / "cup.png"], None, "cup", False))
    assert console.warnings == []


def test_a_folder_gives_its_photos(tmp_path: Path) -> None:
    for number in (10, 2):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("x")
    shown = photo_input.read(Console(), [tmp_path, BRUNO], None, None, False)
    assert shown.names == [str(tmp_path / "2.png"), str(tmp_path / "10.png"), str(BRUNO)]
    with pytest.raises(UsageError, match="one --mask cannot serve several"):
        photo_input.read(Console(), [tmp_path], ALICE, None, False)


def test_a_folder_without_photos_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(NotFound, match="holds no photo"):
        photo_input.read(Console(), [tmp_path], None, None, False)


@pytest.mark.parametrize(("pick", "count"), [(None, 1), (1, 0)])
def test_the_face_that_is_taken_from_a_group_is_named_without_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pick: int | None, count: int
) -> None:
    group = Image.new("RGB", (1024, 512), "white")
    group.paste(Image.open(BRUNO).convert("RGB").resize((512, 512)), (0, 0))
    group.paste(Image.open(ALICE).convert("RGB").resize((512, 512)), (512, 0))
    group.save(tmp_path / "group.png")
    from pmagic.engine.face_selection import select_faces

    console = Console()
    shown = photo_input.read(console, [ALICE, tmp_path / "group.png"], None, None, False)
    faces = select_faces(MINI, shown.images, shown.names)
    spec = SimpleNamespace(domain=None, faces=MINI.faces)
    base = SimpleNamespace(spec=spec, name="mini")
    photo_input.warn_of_strange_photos(console, base, shown, faces, pick)
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == len(console.warnings) == count
    if count:
        left, top, right, bottom = faces[1].face.box
        assert left > 512 and f"{right - left:.0f} x {bottom - top:.0f} at {left:.0f}, {top:.0f}" in warnings[0]
        number = 1 + (faces[1].others[0].area > faces[1].face.area)
        assert f"there are 2 faces in {tmp_path / 'group.png'}: face {number} (" in warnings[0]


def test_the_square_is_cut_from_the_upright_photo(tmp_path: Path) -> None:
    from pmagic.engine.face_selection import select_faces

    Image.open(ALICE).rotate(180).save(tmp_path / "down.png")
    shown = photo_input.read(Console(), [tmp_path / "down.png"], None, None, False)
    known = select_faces(MINI, shown.images, shown.names)
    assert shown.square(256, known).tobytes() == Image.open(ALICE).convert("RGB").tobytes()


@pytest.mark.parametrize("kind", ["face", "style"])
def test_a_style_may_look_like_nothing_that_the_base_draws(
    kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmagic.engine.domain_check.denoising_error", lambda *given: 0.9)
    console = Console()
    shown = photo_input.read(console, [ALICE], None, None, kind == "style")
    spec = SimpleNamespace(domain=MINI.domain, faces=None)
    photo_input.warn_of_strange_photos(console, SimpleNamespace(spec=spec, name="mini"), shown, None, None)
    assert ("do not expect a likeness" in capsys.readouterr().err) == (kind == "face")
