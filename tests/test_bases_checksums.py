"""SHA-256 of weights: every changed file is reported by name, and a folder without sums is not called good."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from test_bases_model_spec import base_folder, observer_folder
from typer.testing import CliRunner

from pmagic.bases import checksums
from pmagic.cli.app import app

runner = CliRunner()
CHANGED = "its SHA-256 does not agree: it was changed or cut"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = base_folder(tmp_path / "base", '[observers]\nclip = "../clip"')
    for each in (folder, observer_folder(tmp_path / "clip")):
        checksums.write(each)
    return folder


def test_the_sums_are_those_of_sha256sum(weights: Path) -> None:
    lines = (weights / checksums.FILE).read_text().splitlines()
    digest = hashlib.sha256((weights / "model_index.json").read_bytes()).hexdigest()
    assert f"{digest}  model_index.json" in lines and len(lines) > 3
    assert [line[66:] for line in lines] == sorted(line[66:] for line in lines)
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", checksums.FILE], cwd=weights, check=True)


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda path: flipped(path), CHANGED),
        (lambda path: path.write_bytes(b""), CHANGED),
        (lambda path: path.unlink(), "it is missing"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "it is not a file"),
    ],
)
def test_every_change_of_a_file_is_found_by_its_name(
    weights: Path, change: Callable[[Path], object], fault: str
) -> None:
    assert checksums.faults(weights) == []
    change(_any(weights))
    ((name, what),) = checksums.faults(weights) or []
    assert what == fault and name.startswith("unet/")


def _any(folder: Path) -> Path:
    return next(path for path in sorted((folder / "unet").iterdir()) if path.is_file())


def test_a_file_that_was_added_is_found(weights: Path) -> None:
    (weights / "unet" / "more.json").write_text("{}")
    assert checksums.faults(weights) == [("unet/more.json", "it is not in SHA256SUMS")]


@pytest.mark.parametrize("text", ["", "no sum", "0" * 64 + " one blank", "\xff" * 9])
def test_sums_that_cannot_be_read_are_no_sums(weights: Path, text: str) -> None:
    (weights / checksums.FILE).write_bytes(text.encode("latin-1"))
    assert checksums.faults(weights) == [(checksums.FILE, "it holds no sums")]


def test_verify_names_the_file_and_ends_with_its_code(weights: Path) -> None:
    done = runner.invoke(app, ["verify", "--base", str(weights)])
    assert done.exit_code == 0 and done.stdout == f"{weights}  verified\n{weights.with_name('clip')}  verified\n"
    changed = _any(weights)
    flipped(changed)
    done = runner.invoke(app, ["verify", "--base", str(weights)])
    assert done.exit_code == 5 and f"{changed}  {CHANGED}" in done.stdout
    found = json.loads(runner.invoke(app, ["verify", "--base", str(weights), "--json"]).stdout)
    assert [each["verified"] for each in found] == [False, True]
    assert runner.invoke(app, ["verify", "--base", str(weights), "-q"]).stdout == f"{changed}\n"


def test_without_sums_nothing_is_called_verified(weights: Path) -> None:
    (weights / checksums.FILE).unlink()
    done = runner.invoke(app, ["verify", "--base", str(weights)])
    assert done.exit_code == 7 and f"{weights / checksums.FILE}  it is missing" in done.stdout


def test_one_of_persona_and_base_is_verified_at_a_time(weights: Path) -> None:
    for more in (["alice"], ["--all"]):
        done = runner.invoke(app, ["verify", "--base", str(weights), *more])
        assert done.exit_code == 2 and "--base is given with a persona or --all" in done.stderr


def test_the_shipped_weights_verify() -> None:
    done = runner.invoke(app, ["verify", "--base", "mini"])
    assert done.exit_code == 0 and done.stdout.count("verified") == 5
