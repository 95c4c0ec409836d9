"""mv, cp, export, import, verify, path, info: on stored personas, so that no model is needed."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner

from pmagic import pictures
from pmagic.cli.app import app
from pmagic.library.store import Library
from pmagic.persona import Persona

Make = Callable[..., Persona]
runner = CliRunner()
STORY = {
    "persona": "alice@1", "prompt": "a photo of <alice> as a 'cowboy'", "seed": 3, "steps": 25, "guidance": 4.0,
    "scheduler": "ddim", "negative": "", "size": [64, 64], "base": "mini", "device": "cpu", "dtype": "auto",
}  # fmt: skip


def test_export_and_import(library: Library, persona: Make, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    library.save("alice", persona())
    assert runner.invoke(app, ["export", "alice"]).stdout == "alice.pmagic\n"
    assert runner.invoke(app, ["export", "alice"]).stdout == "alice-2.pmagic\n"  # nothing is overwritten
    assert Path("alice.pmagic").read_bytes() == Path("alice-2.pmagic").read_bytes()
    assert stat.S_IMODE(os.stat("alice.pmagic").st_mode) == 0o600
    found = json.loads(runner.invoke(app, ["import", "alice.pmagic", "--as", "bob", "--json"]).stdout)
    assert found == {"persona": "bob@1", "already_here": False, "warnings": []}


def test_importing_the_same_file_twice_makes_no_second_version(
    library: Library, persona: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    library.save("alice", persona())
    library.save("alice", persona(word="cat"))
    runner.invoke(app, ["export", "alice@1", "first.pmagic"])
    again = runner.invoke(app, ["import", "first.pmagic", "--as", "alice", "--json"])
    assert json.loads(again.stdout)["persona"] == "alice@1"
    assert "warning: this persona is already here as alice@1" in again.stderr
    assert library.versions("alice") == [1, 2]
    (library.root / "alice" / "v0001" / "tensors.safetensors").write_bytes(b"x")  # damaged, it is not the same
    done = runner.invoke(app, ["import", "first.pmagic", "--as", "alice"])
    assert (done.stdout, library.versions("alice")) == ("alice@3\n", [1, 2, 3])


def test_mv_and_cp(library: Library, persona: Make) -> None:
    library.save("alice", persona())
    assert runner.invoke(app, ["cp", "alice@1", "bob"]).stdout == "bob@1\n"
    assert runner.invoke(app, ["mv", "alice", "carol"]).stdout == "carol@1\n"
    assert library.names() == ["bob", "carol"]
    assert runner.invoke(app, ["mv", "bob", "carol"]).exit_code == 2
    assert runner.invoke(app, ["mv", "alise", "dora"]).exit_code == 3


def test_verify_tells_each_and_ends_with_the_damage(library: Library, persona: Make) -> None:
    library.save("alice", persona())
    library.save("bob", persona())
    done = runner.invoke(app, ["verify"])
    assert (done.exit_code, done.stdout.splitlines()) == (0, ["alice@1  verified", "bob@1  verified"])
    (library.root / "alice" / "v0001" / "tensors.safetensors").write_bytes(b"x")
    done = runner.invoke(app, ["verify", "--json"])
    assert done.exit_code == 5
    assert [each["verified"] for each in json.loads(done.stdout)] == [False, True]
    assert runner.invoke(app, ["verify", "bob"]).exit_code == 0


def test_path(library: Library, persona: Make) -> None:
    library.save("alice", persona())
    assert runner.invoke(app, ["path"]).stdout == f"{library.root}\n"
    assert runner.invoke(app, ["path", "alice"]).stdout == f"{library.root / 'alice' / 'v0001'}\n"


def test_info_gives_the_command_that_draws_the_picture_again(tmp_path: Path) -> None:
    path = pictures.write_picture(Image.new("RGB", (64, 64)), tmp_path / "a.png", STORY)
    command = (
        "pmagic render --seed=3 --steps=25 --guidance=4.0 --scheduler=ddim --negative='' --size=64x64 --format=png "
        """--device=cpu --dtype=auto alice@1 'a photo of <alice> as a '"'"'cowboy'"'"''"""
    )
    lines = runner.invoke(app, ["info", str(path)]).stdout.splitlines()
    assert "seed: 3" in lines and lines[-1].strip() == command
    assert runner.invoke(app, ["info", "-q", str(path)]).stdout == command + "\n"
    found = json.loads(runner.invoke(app, ["info", str(path), "--json"]).stdout)
    assert found == {**STORY, "format": "png", "command": command, "warnings": []}


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", "nonsense", '{"persona": {}, "prompt": "x"}', "[" * 100_000, '{"kind": "grid", "seed": NaN}',
     '{"kind": "grid", "seed": 1e999}'],
)  # fmt: skip
def test_a_story_that_somebody_else_wrote_is_refused(tmp_path: Path, text: str) -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_itxt("pmagic", text)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png", pnginfo=notes)
    done = runner.invoke(app, ["info", str(tmp_path / "a.png")])
    assert done.exit_code == 4 and done.stderr.startswith("error: ")
