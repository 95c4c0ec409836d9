"""Stable Diffusion XL through the program, on a tiny random base with face packs: the real engine, no doubles."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import tiny
from evaluated import face
from PIL import Image
from typer.testing import CliRunner, Result

from pmagic import pictures
from pmagic.bases import loading
from pmagic.cli.app import app
from pmagic.engine import training
from pmagic.library import unfinished
from pmagic.library.store import Library

pytest_plugins = ["tiny", "tiny_xl"]

runner = CliRunner()


def run(*words: object) -> Result:
    done = runner.invoke(app, [*map(str, words)])
    assert done.exit_code == 0, (done.stderr, done.exception)
    return done


def learn(base: Path, folder: Path, name: str, row: int = 6) -> None:
    photo = folder / f"{name}.png"
    face(7, row).save(photo)
    run("learn", photo, "--name", name, "--base", base)


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_from_a_photo_to_pictures(library: Library, faced_xl: Path, tmp_path: Path) -> None:
    """The default recipe: the probe, tandem equilibrium, the identity loss; then every way of drawing."""
    learn(faced_xl, tmp_path, "alice")
    learn(faced_xl, tmp_path, "bob", 8)
    persona = library.load("alice")[1]
    assert len(persona.curve) == 20 and set(persona.losses) == {"masked_mse", "tandem_equilibrium", "identity"}
    assert persona.fingerprint == loading.fingerprint(faced_xl)
    assert persona.tensors["learner.dynamic_out.bias"].shape == (4 * (32 + 48),)
    words = ("--steps", 2, "--out", tmp_path / "out")

    first = Path(run("render", "alice", "as a cowboy", *words).stdout.strip())
    assert Image.open(first).size == (tiny.SIZE, tiny.SIZE)
    again = shlex.split(run("info", "-q", first).stdout.strip())[1:]
    second = Path(run(*again, "--out", tmp_path / "again").stdout.strip())
    assert second.read_bytes() == first.read_bytes()

    prompt = "a photo of {alice} and {bob}"
    drawn = [pixels(run("compose", prompt, *words, *more).stdout.strip()) for more in ((), ("--layout", "left,right"))]
    assert (drawn[0] != drawn[1]).any()

    park = tmp_path / "park.png"
    tiny.photo(6, (70, 50)).save(park)
    edited = run("compose", "{alice} as a cowboy", "--background", park, "--box", "30,10,20,30", *words).stdout.strip()
    changed = (pixels(edited) != pixels(str(park))).any(axis=2)
    inside = np.zeros((50, 70), dtype=bool)
    inside[10:40, 30:50] = True
    assert changed[inside].mean() > 0.9 and not changed[~inside].any()
    assert pictures.read_metadata(Path(edited))["base"] == "faced-xl"


def test_learning_that_was_stopped_resumes_with_the_same_bytes(
    library: Library, faced_xl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = tmp_path / "alice.png"
    face(7, 6).save(photo)
    words = ["learn", str(photo), "--base", str(faced_xl), "--recipe", "paper", "--iterations", "4", "--name"]
    run(*words, "whole")

    class Killed(BaseException):
        pass

    monkeypatch.setattr(training, "SAVE_EVERY", 1)
    real, left = training.optimizer_step, [5]  # two steps of the probe come first

    def dying(*given: object) -> object:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return real(*given)

    monkeypatch.setattr(training, "optimizer_step", dying)
    with pytest.raises(Killed):
        runner.invoke(app, [*words, "alice"])
    monkeypatch.setattr(training, "optimizer_step", real)
    assert unfinished.resumable_names(library.root) == ["alice"]
    run("learn", "--resume")
    kept = [(library.root / name / "v0001" / "tensors.safetensors").read_bytes() for name in ("alice", "whole")]
    assert kept[0] == kept[1]


def test_it_is_probed_and_evaluated(faced_xl: Path, people: Path, prompts_file: Path, tmp_path: Path) -> None:
    photo = tmp_path / "alice.png"
    face(7, 6).save(photo)
    told = json.loads(run("probe", photo, "--base", faced_xl, "--out", tmp_path / "probe", "--json").stdout)
    assert len(told["curve"]) == 20
    given = ("--dataset", "folder", "--root", people, "--prompts", prompts_file, "--base", faced_xl)
    run("eval", *given, "--people", 2, "-n", 1, "--out", tmp_path / "eval")
    results = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert "identity" in json.dumps(results)
