"""`pmagic eval --pictures`: measures pictures of another tool without opening a base."""

import json
import shutil
from pathlib import Path

import pytest
from evaluated import face
from PIL import Image
from tiny import faced_folder, tiny_folders  # noqa: F401 - fixtures
from typer.testing import CliRunner, Result

from pmagic.bases import loading
from pmagic.cli.app import app

runner = CliRunner()


@pytest.fixture
def theirs(tmp_path: Path, people: Path) -> Path:
    """A copy of alice's photo by prompt 1 and nobody by prompt 2; chiara by prompt 1, as in her other photo."""
    folder = tmp_path / "theirs"
    (folder / "alice").mkdir(parents=True)
    (folder / "chiara").mkdir()
    shutil.copy(people / "alice.png", folder / "alice" / "01-first.png")
    Image.new("RGB", (64, 64)).save(folder / "alice" / "2.png")
    shutil.copy(people / "chiara" / "2.png", folder / "chiara" / "1_0.png")
    face(3, 9).save(folder / "chiara" / "1_1.png")
    return folder


def score(theirs: Path, people: Path, prompts: Path, base: Path, out: Path, *more: str) -> Result:
    words = ["--pictures", theirs, "--photos", people, "--prompts", prompts, "--base", base, "--out", out]
    return runner.invoke(app, ["eval", *map(str, words), *more])


def test_pictures_are_scored_as_they_lie(
    theirs: Path,
    people: Path,
    prompts_file: Path,
    eval_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loading, "load", lambda *args, **more: pytest.fail("no base is needed to score pictures"))
    done = score(theirs, people, prompts_file, eval_folder, tmp_path / "out")
    assert done.exit_code == 0, (done.stderr, done.exception)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    lines = {each["file"]: each for each in results["pictures"]}
    assert lines["alice/01-first.png"]["i_pre"] == pytest.approx(1, abs=1e-4)
    assert lines["alice/01-first.png"]["i_unseen"] is None
    assert lines["alice/2.png"]["i_pre"] == -1 and lines["alice/2.png"]["i_found"] is None
    assert lines["chiara/1_0.png"]["i_unseen"] == pytest.approx(1, abs=1e-4)
    assert [each["prompt"] for each in lines.values()] == [1, 2, 1, 1]
    means = {each["column"]: each for each in results["means"]}
    assert means["i_pre"]["people"] == 2 and means["i_pre"]["pictures"] == 4
    assert "<title>Evaluation of the pictures in theirs</title>" in (tmp_path / "out" / "report.html").read_text()
    assert "theirs" in done.stdout and " (of 1)" in done.stdout  # alice has one photo, so i_unseen is chiara's alone
    assert "no picture of bruno" in done.stderr and "none of chiara by 2" in done.stderr
    again = score(theirs, people, prompts_file, eval_folder, tmp_path / "out", "--json")
    assert json.loads(again.stdout) == results
    Image.new("RGB", (64, 64), "white").save(theirs / "alice" / "2.png")
    assert score(theirs, people, prompts_file, eval_folder, tmp_path / "out").exit_code == 6


@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        ("alice/3.png", 2, "number of a prompt, 1 to 2"),
        ("alice/portrait.png", 2, "number of a prompt"),
        ("dora/1.png", 2, "of whom there is no photo"),
    ],
)
def test_another_layout_is_refused(
    theirs: Path,
    people: Path,
    prompts_file: Path,
    eval_folder: Path,
    tmp_path: Path,
    name: str,
    code: int,
    told: str,
) -> None:
    (theirs / name).parent.mkdir(exist_ok=True)
    Image.new("RGB", (64, 64)).save(theirs / name)
    done = score(theirs, people, prompts_file, eval_folder, tmp_path / "out")
    assert (done.exit_code, told in done.stderr) == (code, True), done.stderr


def test_a_picture_that_is_none_fails_one_person(
    theirs: Path,
    people: Path,
    prompts_file: Path,
    eval_folder: Path,
    tmp_path: Path,
) -> None:
    (theirs / "alice" / "2.png").write_bytes(b"no picture")
    done = score(theirs, people, prompts_file, eval_folder, tmp_path / "out")
    assert done.exit_code == 12
    assert "alice: " in done.stderr and "not a JPEG" in done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {each["person"] for each in results["pictures"]} == {2}
    flat = tmp_path / "flat"
    flat.mkdir()
    face(5, 5).save(flat / "1.png")
    refused = score(flat, people, prompts_file, eval_folder, tmp_path / "other")
    assert refused.exit_code == 3 and "found there: 1.png" in refused.stderr
