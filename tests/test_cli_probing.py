"""probe, and learn by the paper's recipe, through the program on a tiny base with a face pack: no doubles."""

import json
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from packs import photo_of
from PIL import Image
from tiny import faced_folder, tiny_folders  # noqa: F401 - fixtures
from typer.testing import CliRunner, Result

from pmagic import pictures
from pmagic.cli import console, curves
from pmagic.cli.app import app
from pmagic.cli.console import Console
from pmagic.engine import probe as probing
from pmagic.library import unfinished
from pmagic.library.store import Library
from pmagic.tasks import probe_step

runner = CliRunner()
SHORT = "[learn]\nprobe_iterations = 2\niterations = 2\niou_low = 0.05\niou_high = 0.9\n"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "alice.png"
    photo_of((7, 6)).save(path)
    return path


@pytest.fixture
def base(faced_folder: Path, tmp_path: Path) -> str:  # noqa: F811
    """The tiny base with a pmagic.toml of its own that asks for little."""
    folder = tmp_path / "base"
    folder.mkdir()
    for each in faced_folder.iterdir():
        if each.name != "pmagic.toml":
            (folder / each.name).symlink_to(each)
    observers = (faced_folder / "pmagic.toml").read_text().replace("../", f"{faced_folder.parent}/")
    (folder / "pmagic.toml").write_text(SHORT + observers)
    return str(folder)


def learn(photo: Path, base: str, *more: str, name: str = "alice") -> Result:
    return runner.invoke(app, ["learn", str(photo), "--name", name, "--base", base, *more])


def probe(photo: Path, base: str, out: Path, *more: str) -> Result:
    return runner.invoke(app, ["probe", str(photo), "--base", base, "--out", str(out), *more])


def refuse(*given: object) -> None:
    raise AssertionError("it probed again")


def test_probe_prints_curve_and_bounds_and_writes_two_pictures(photo: Path, base: str, tmp_path: Path) -> None:
    done = probe(photo, base, tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("1.00 ┤") and sum("●" in line for line in lines) >= 1
    assert [Path(line).name for line in lines[-2:]] == ["alice-stages.png", "alice-attention.png"]
    assert lines[-3].startswith("stages ")
    assert {stat.S_IMODE(Path(line).stat().st_mode) for line in lines[-2:]} == {0o600}
    plot, strip = (Image.open(line) for line in lines[-2:])
    assert plot.width > plot.height and strip.width > 4 * strip.height
    again = probe(photo, base, tmp_path / "out", "-q")
    assert Path(again.stdout.splitlines()[-1]).name == "alice-attention-2.png"  # nothing is overwritten
    assert len(again.stdout.splitlines()) == 3


def test_learning_says_which_of_its_two_parts_it_is_in(photo: Path, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LINE_SECONDS", 0.0)
    parts = [line.partition(":")[0] + ":" + line.split(":")[1] for line in learn(photo, base).stderr.splitlines()
             if " of 2: " in line]  # fmt: skip
    assert list(dict.fromkeys(parts)) == ["1 of 2: finding the stages", "2 of 2: learning alice"]
    fixed = learn(photo, base, "--stages", "400:800", name="bob").stderr
    assert "learning bob: 1 of 2, " in fixed and "1 of 2: " not in fixed


def test_probe_as_json(photo: Path, base: str, tmp_path: Path) -> None:
    done = probe(photo, base, tmp_path / "out", "--json")
    document = json.loads(done.stdout)
    low, high = document["bounds"]
    assert 0 <= low < high <= 1000
    assert [t for t, _ in document["curve"]] == list(probing.GRID)
    assert document["monotone"] == sorted(document["monotone"])
    assert (document["iou_low"], document["iou_high"]) == (0.05, 0.9)
    assert document["photos"] == [pictures.read_photo(photo).sha256]


def test_a_probe_kept_by_name_serves_the_learning(
    library: Library, photo: Path, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = json.loads(probe(photo, base, tmp_path / "out", "--name", "alice", "--json").stdout)
    assert library.names() == []
    with monkeypatch.context() as patch:
        patch.setattr(probing, "probe", refuse)
        done = learn(photo, base, "--seed", "4")
        assert done.exit_code == 0, done.stderr
        assert learn(photo, base, name="bob").exit_code == 1  # another name has none
    persona = library.load("alice")[1]
    assert [persona.bounds.low, persona.bounds.high] == found["bounds"]
    assert [list(point) for point in persona.curve] == found["curve"]
    assert persona.settings["recipe"] == "tuned"
    assert not list(library.root.rglob("*.probe"))


def stopped_in_a_step(patch: pytest.MonkeyPatch) -> None:
    real = probing.probe

    def interrupted(base: object, subject: object, brief: object, on_step: Callable[[int, int], None]) -> object:
        def step(done: int, total: int) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            on_step(done, total)

        return real(base, subject, brief, step)

    patch.setattr(probing, "probe", interrupted)


def stopped_before(patch: pytest.MonkeyPatch) -> None:
    def interrupted(*given: object, **more: object) -> None:
        raise KeyboardInterrupt

    patch.setattr(Console, "talks", True)
    patch.setattr(probe_step, "say_time", interrupted)


@pytest.mark.parametrize("stop", [stopped_in_a_step, stopped_before])
def test_stopped_while_the_stages_are_found_resume_begins_to_find_them_again(
    library: Library, photo: Path, base: str, stop: Callable[[pytest.MonkeyPatch], None]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop(patch)
        done = learn(photo, base)
    assert done.exit_code == 130, done.stderr
    assert "learning alice was stopped while finding its stages" in done.stderr
    assert "next: to start again: pmagic learn --resume --name alice" in done.stderr
    resumed = runner.invoke(app, ["learn", "--resume"])
    assert resumed.stdout == "alice@1\n", resumed.stderr
    assert learn(photo, base, name="whole").exit_code == 0
    one, two = (library.root / name / "v0001" / "tensors.safetensors" for name in ("alice", "whole"))
    assert one.read_bytes() == two.read_bytes()
    assert unfinished.names(library.root) == []


def test_another_photo_or_mask_is_probed_anew(library: Library, photo: Path, base: str, tmp_path: Path) -> None:
    assert probe(photo, base, tmp_path / "out", "--name", "alice").exit_code == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probing, "probe", refuse)
        mask = tmp_path / "mask.png"
        Image.new("L", (128, 128), 255).save(mask)
        assert learn(photo, base, "--mask", str(mask)).exit_code == 1
        assert learn(photo, base).exit_code == 0


def test_the_tuned_recipe_is_the_default_and_everything_is_told(library: Library, photo: Path, base: str) -> None:
    done = learn(photo, base, "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document["losses"]) == {"masked_mse", "tandem_equilibrium", "identity"}
    assert len(document["curve"]) == len(probing.GRID)
    text = runner.invoke(app, ["show", "alice"]).stdout
    low, high = document["bounds"]
    assert f"bounds: dynamic for {low} <= t < {high}" in text
    assert "recipe: tuned" in text
    assert "identity: " in text
    assert f"photos: 1 ({pictures.read_photo(photo).sha256[:12]})" in text
    assert "curve: " in text and "IoU" in text
    assert f"fingerprint: {library.load('alice')[1].fingerprint}" in text


def test_stages_by_hand_skip_the_probe(
    library: Library, photo: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "probe", refuse)
    assert learn(photo, base, "--stages", "300:600").exit_code == 0
    persona = library.load("alice")[1]
    assert (persona.bounds.low, persona.bounds.high, persona.curve) == (300, 600, ())


def test_a_fallback_is_warned_of(library: Library, photo: Path, base: str) -> None:
    """A random CLIPSeg finds the word everywhere, of which a map covers half."""
    done = learn(photo, base)
    assert done.exit_code == 0
    assert "warning: this photo gives no stages of its own: the IoU never reaches 0.9, it ends at 0.5" in done.stderr
    persona = library.load("alice")[1]
    assert (persona.bounds.low, persona.bounds.high) == (400, 800)
    assert persona.settings["stages"].startswith("fell back: ")


@pytest.mark.parametrize(
    ("cells", "said"),
    [((), "no face is found in"), (((2, 3), (11, 9)), "there are 2 faces in")],
)
@pytest.mark.parametrize("command", ["learn", "probe"])
def test_photos_without_the_one_face_are_refused(
    library: Library, tmp_path: Path, base: str, command: str, cells: tuple, said: str
) -> None:
    path = tmp_path / "us.png"
    photo_of(*cells).save(path)
    done = runner.invoke(app, [command, str(path), "--name", "alice", "--base", base])
    assert (done.exit_code, done.stdout) == (4, "")
    assert said in done.stderr and "us.png" in done.stderr
    assert done.stderr.count("error: ") == 1
    assert library.names() == []


def test_one_of_two_faces_can_be_chosen(library: Library, tmp_path: Path, base: str) -> None:
    path = tmp_path / "us.png"
    photo_of((2, 3), (11, 9)).save(path)
    assert learn(path, base, "--face", "2").exit_code == 0


def test_two_people_are_refused_and_duplicates_count_once(
    library: Library, photo: Path, tmp_path: Path, base: str
) -> None:
    other, copy = tmp_path / "other.png", tmp_path / "copy.png"
    photo_of((4, 9)).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(other)
    copy.write_bytes(photo.read_bytes())
    done = learn(photo, base, str(copy))
    assert done.exit_code == 0
    assert f"warning: {copy} is the same file as {photo}, and counts once" in done.stderr
    assert len(library.load("alice")[1].photos) == 1
    config = Path(base) / "pmagic.toml"
    config.write_text(config.read_text().replace("[learn]\n", "[learn]\nalike = 1.01\n"))
    done = learn(photo, base, str(other), name="both")
    assert done.exit_code == 4
    assert "show two different people: their faces have a similarity of" in done.stderr


def test_things_and_styles_are_learned_without_a_face(library: Library, tmp_path: Path, base: str) -> None:
    path = tmp_path / "wall.png"
    photo_of().save(path)
    assert learn(path, base, "--class", "dog", name="rex").exit_code == 0
    rex = library.load("rex")[1]
    assert rex.word == "dog" and "identity" not in rex.losses
    assert "a photo of my {}" in rex.settings["templates"]
    assert learn(path, base, "--style", name="ukiyo").exit_code == 0
    ukiyo = library.load("ukiyo")[1]
    assert (ukiyo.word, ukiyo.bounds.low, ukiyo.bounds.high) == ("painting", 400, 800)
    assert all("style" in each for each in ukiyo.settings["templates"])


def test_a_curve_in_characters() -> None:
    drawn = curves.plot([(975, 0.0), (700, 0.5), (525, 0.5), (25, 1.0)], 400, 650, (0.75,))
    marked = [line for line in drawn if "●" in line]
    assert [line[:4] for line in marked] == ["1.00", "0.50", "0.00"]
    assert [line.index("●") for line in marked] == [16, 10, 7]
    assert drawn[-2].split()[0] == "······━━━···"
    assert drawn[-1].split() == ["t=975", "t=25"]
    assert sum("╌" in line for line in drawn) == 1
    assert curves.sparkline([0.0, 0.5, 1.0]) == "▁▅█"
