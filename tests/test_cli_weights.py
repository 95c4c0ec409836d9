"""Options of methods that train weights, through the program on a tiny base: class pictures, rank, strength."""

import contextlib
import json
import shlex
from pathlib import Path

import pytest
import tiny
from typer.testing import CliRunner, Result

from pmagic.cli.app import app
from pmagic.library.store import Library
from pmagic.settings import class_pictures_dir

pytest_plugins = ["tiny"]
runner = CliRunner()


@pytest.fixture
def base(own_folder: Path) -> str:
    config = own_folder / "pmagic.toml"
    config.write_text(config.read_text() + "[render]\nsteps = 2\n")
    return str(own_folder)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    tiny.photo(3).save(tmp_path / "alice.png")
    return tmp_path / "alice.png"


def learn(photo: Path, base: str, *more: str, name: str = "alice") -> Result:
    words = ["--name", name, "--base", base, "--iterations", "2", "--recipe", "reference", *more]
    return runner.invoke(app, ["learn", str(photo), *words])


def test_class_pictures_are_drawn_kept_recorded_and_used_again(library: Library, photo: Path, base: str) -> None:
    done = learn(photo, base, "--method", "lora", "--prior", "5", "--rank", "2", "--json")
    assert done.exit_code == 0, done.stderr
    (folder,) = class_pictures_dir().iterdir()
    files = {each: each.stat().st_mtime_ns for each in folder.iterdir()}
    assert len(files) == 2
    document = json.loads(done.stdout)
    assert (document["settings"]["prior"], document["settings"]["rank"]) == (5, 2)
    assert set(document["losses"]) == {"mse", "prior"}
    shown = runner.invoke(app, ["show", "alice"]).stdout
    assert "\n  prior: 5\n" in shown and f"class_pictures: {document['settings']['class_pictures']}" in shown
    assert learn(photo, base, "--method", "dreambooth", "--prior", "3", name="other").exit_code == 0
    assert {each: each.stat().st_mtime_ns for each in folder.iterdir()} == files


def test_a_stopped_learning_goes_on_with_its_class_pictures(
    library: Library, photo: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pmagic.engine import class_pictures

    own = class_pictures.class_latents

    def stopped(*given: object) -> None:
        own(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(class_pictures, "class_latents", stopped)
    done = learn(photo, base, "--method", "lora", "--prior", "4")
    assert done.exit_code == 130
    assert "stopped while drawing class pictures" in done.stderr and "the class pictures drawn so far" in done.stderr
    monkeypatch.undo()
    monkeypatch.setenv("PMAGIC_HOME", str(library.root.parent))
    done = runner.invoke(app, ["learn", "--resume"])
    assert done.exit_code == 0, done.stderr
    assert library.load("alice")[1].settings["prior"] == 4
    refused = runner.invoke(app, ["learn", "--resume", "--prior", "4", "--rank", "1"])
    assert refused.exit_code == 2 and "--rank, --prior" in refused.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--prior", "8"], "8 class pictures would preserve nothing"),
        (["--method", "textual_inversion", "--rank", "8"], "this method changes no weight of the base"),
        (["--method", "lora", "--rank", "0"], "its rank must be at least 1"),
        (["--method", "lora", "--rank", "-1"], "the rank must be from 0 to 1024, not -1"),
        (["--method", "lora", "--prior", "-1"], "the number of class pictures must be from 0 to 10000, not -1"),
    ],
)
def test_options_without_meaning_are_refused(
    library: Library, photo: Path, base: str, more: list[str], message: str
) -> None:
    done = learn(photo, base, *more)
    assert done.exit_code == 2 and message in " ".join(done.stderr.split())
    assert not library.names() and not class_pictures_dir().exists()


@pytest.mark.parametrize(("kind", "template"), [("face", "a photo of {}"), ("dog", "a photo of {}")])
def test_a_method_keeps_its_own_prompts(library: Library, photo: Path, base: str, kind: str, template: str) -> None:
    mask = photo.with_name("mask.png")
    tiny.photo(3).convert("L").save(mask)
    done = learn(photo, base, "--method", "lora", "--class", kind, "--mask", str(mask))
    assert done.exit_code == 0, done.stderr
    assert library.load("alice")[1].settings["templates"] == [template]


def test_strength_is_drawn_told_and_repeated(library: Library, photo: Path, base: str, tmp_path: Path) -> None:
    assert learn(photo, base, "--method", "custom_diffusion", "--learning-rate", "0.05").exit_code == 0
    pictures = {}
    for strength in ("0", "0.5", "1", None):
        more = [] if strength is None else ["--strength", strength]
        done = runner.invoke(app, ["render", "alice", "in snow", "--out", str(tmp_path / f"{strength}"), *more])
        assert done.exit_code == 0, done.stderr
        pictures[strength] = Path(done.stdout.strip())
    from PIL import Image

    pixels = {key: Image.open(path).tobytes() for key, path in pictures.items()}
    assert pictures["1"].read_bytes() == pictures[None].read_bytes()
    assert len({pixels["0"], pixels["0.5"], pixels["1"]}) == 3
    told = json.loads(runner.invoke(app, ["info", "--json", str(pictures["0.5"])]).stdout)
    assert told["strength"] == 0.5 and " --strength=0.5 " in told["command"]
    assert "strength" not in json.loads(runner.invoke(app, ["info", "--json", str(pictures["1"])]).stdout)
    again = runner.invoke(app, [*shlex.split(told["command"])[1:], "--out", str(tmp_path / "again")])
    assert Path(again.stdout.strip()).read_bytes() == pictures["0.5"].read_bytes()
    composed = runner.invoke(
        app, ["compose", "a photo of {alice} in snow", "--strength", "0.5", "--out", str(tmp_path / "composed")]
    )
    assert Image.open(composed.stdout.strip()).tobytes() == pixels["0.5"]
    command = json.loads(runner.invoke(app, ["info", "--json", composed.stdout.strip()]).stdout)["command"]
    assert "compose" in command and "--strength=0.5" in command


def test_strength_needs_weights(library: Library, photo: Path, base: str, tmp_path: Path) -> None:
    assert learn(photo, base).exit_code == 0
    done = runner.invoke(app, ["render", "alice", "in snow", "--strength", "0.5", "--out", str(tmp_path)])
    assert done.exit_code == 2 and "alice@1 (personamagic) changes none" in " ".join(done.stderr.split())
    assert runner.invoke(app, ["render", "alice", "x", "--strength", "11"]).exit_code == 2
    assert runner.invoke(app, ["render", "alice", "x", "--strength", "nan"]).exit_code == 2


@pytest.fixture
def two(tmp_path: Path, photo: Path) -> list[str]:
    """Photos of two, and the options that learn them together without vision models."""
    tiny.photo(4).save(tmp_path / "tom.png")
    return [str(photo), str(tmp_path / "tom.png"), "--together", "--name", "alice", "--name", "tom"]


def test_two_are_learned_together_and_composed(library: Library, two: list[str], base: str, tmp_path: Path) -> None:
    more = ["--base", base, "--method", "custom_diffusion", "--recipe", "reference", "--iterations", "2"]
    words = ["--class", "face", "--class", "dog"]
    done = runner.invoke(app, ["learn", *two, *words, *more, "--json"])
    assert done.exit_code == 0, done.stderr
    personas = json.loads(done.stdout)["personas"]
    assert [(each["persona"], each["word"]) for each in personas] == [("alice@1", "face"), ("tom@1", "dog")]
    assert personas[0]["settings"]["together"] == personas[1]["settings"]["together"]
    assert personas[0]["settings"]["batch"] == 1 and personas[0]["settings"]["iterations"] == 2
    assert f"together: {personas[0]['settings']['together']}" in runner.invoke(app, ["show", "tom"]).stdout
    assert not (library.root / ".unfinished" / "alice").exists() and not (library.root / ".unfinished" / "tom").exists()
    assert runner.invoke(app, ["rm", "alice", "--yes"]).exit_code == 0  # each stands alone
    assert runner.invoke(app, ["render", "tom", "in snow", "--out", str(tmp_path)]).exit_code == 0
    assert runner.invoke(app, ["learn", *two, *more]).exit_code == 0
    assert set(library.names()) == {"alice", "tom"} and library.versions("tom") == [1, 2]
    drawn = runner.invoke(app, ["compose", "a photo of {alice} with {tom}", "--out", str(tmp_path)])
    assert drawn.exit_code == 0, drawn.stderr


def test_a_joint_learning_that_was_stopped_goes_on(
    library: Library, two: list[str], base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pmagic.cli import stopping

    more = ["--base", base, "--method", "custom_personamagic", "--recipe", "reference", "--iterations", "3"]
    whole = runner.invoke(app, ["learn", *two, *more])
    assert whole.exit_code == 0, whole.stderr

    class Stop(stopping.StopAtStep):
        @contextlib.contextmanager
        def progress(self, what: str):
            def advance(done: int, total: int, remark: str) -> None:
                if done == 2:
                    raise KeyboardInterrupt

            yield advance

    monkeypatch.setattr("pmagic.cli.joint.StopAtStep", Stop)
    done = runner.invoke(app, ["learn", *two, *more])
    assert done.exit_code == 130 and "learning alice was stopped after 2 of 3 iterations" in done.stderr, done.stderr
    monkeypatch.setattr("pmagic.cli.joint.StopAtStep", stopping.StopAtStep)
    done = runner.invoke(app, ["learn", "--resume"])
    # The same personas, to the last byte: they are found in the library.
    assert done.stdout.split() == ["alice@1", "tom@1"] and library.versions("tom") == [1], done.stderr
    assert not (library.root / ".unfinished" / "tom").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--method", "lora"], "which lora cannot"),
        (["--style"], "--style is for one persona"),
        (["--face", "1"], "--face is for one persona"),
        (["--name", "third"], "for each --name: 2 for 3"),
        (["--class", "face", "--class", "face", "--class", "face"], "for each --name: 3 for 2"),
        (["--preview-every", "2"], "--preview-every draws one persona"),
        (["--compile"], "--compile does not go"),
    ],
)
def test_what_cannot_be_learned_together(
    library: Library, two: list[str], base: str, change: list[str], message: str
) -> None:
    done = runner.invoke(app, ["learn", *two, "--method", "custom_diffusion", "--base", base, *change])
    assert done.exit_code == 2 and message in " ".join(done.stderr.split()), done.stderr


def test_several_names_need_together(two: list[str]) -> None:
    done = runner.invoke(app, ["learn", *(each for each in two if each != "--together")])
    assert done.exit_code == 2 and "one persona has one name, not 2" in done.stderr
    done = runner.invoke(app, ["learn", *two[:5]])
    assert done.exit_code == 2 and "there is one --name" in " ".join(done.stderr.split())
