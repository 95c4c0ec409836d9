"""From nothing to a persona on a base that is pulled: the test runs each command that a message names."""

import hashlib
import re
import shlex
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import local_hub
import packs
import pytest
from tiny import tiny_folders  # noqa: F401 - a fixture
from typer.testing import CliRunner, Result

from pmagic.bases import checksums, model_spec
from pmagic.cli.app import app

runner = CliRunner()
FAST = ["--iterations", "1", "--stages", "400:800"]
Hub = Callable[[dict[str, dict[str, bytes]]], local_hub.LocalHub]


def files_of(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "pmagic.toml"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def commands(done: Result) -> list[list[str]]:
    """What a message says in backticks, as words."""
    return [shlex.split(each)[1:] for each in re.findall(r"`(pmagic [^`]+)`", done.stderr)]


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = packs.build_pack(tmp_path_factory.mktemp("pack") / "buffalo_l")
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as made:
        for path in folder.iterdir():
            made.write(path, path.name)
    return archive.read_bytes()


@pytest.fixture
def served(tiny_folders: dict[str, Path], pack: bytes, hub_here: Hub, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Tiny models under the real names, and a pack where insightface's are."""
    from insightface.utils import storage

    base = tiny_folders["sd1"]
    hub = hub_here(
        {
            "CompVis/stable-diffusion-v1-4": files_of(base),
            model_spec.CLIP_REPO: files_of(base.with_name("sd1-clip")),
            model_spec.CLIPSEG_REPO: files_of(base.with_name("sd1-clipseg")),
            "packs/zoo": {"buffalo_l.zip": pack},
        }
    )
    monkeypatch.setitem(checksums.PACKS, "buffalo_l", hashlib.sha256(pack).hexdigest())
    monkeypatch.setattr(storage, "model_zoo_download_url", lambda name: f"{hub.url}/packs/zoo/resolve/main/{name}")


@pytest.fixture
def photo(tmp_path: Path) -> str:
    packs.photo_of((7, 7)).save(tmp_path / "alice.png")
    return str(tmp_path / "alice.png")


def run(*words: str) -> Result:
    return runner.invoke(app, list(words))


def test_from_nothing_to_a_person_by_what_the_messages_say(served: None, photo: str) -> None:
    learn = ("learn", photo, "--name", "alice", *FAST)
    first = run(*learn)
    assert first.exit_code == 7
    assert commands(first) == [["models", "pull", "sd14"], ["models", "pull", "buffalo_l"]]
    told = run(*commands(first)[0])
    assert told.exit_code == 0, told.stderr
    # Before any download, the message says why the pack is needed, its licence, and how to do without it.
    assert re.search(
        r"learning people also needs buffalo_l, 0\.33 GB, licence: non-commercial research only", told.stderr
    )
    assert ["models", "pull", "buffalo_l"] in commands(told)
    without = run(*learn)
    assert without.exit_code == 7
    assert "`--recipe reference`" in without.stderr and "--mask" not in without.stderr
    done = run(*learn, "--recipe", "reference")  # CLIPSeg makes the mask
    assert done.exit_code == 0, done.stderr
    for words in commands(without):
        assert run(*words).exit_code == 0, words
    done = run(*learn)
    assert (done.exit_code, done.stderr) == (0, ""), done.stderr
    assert done.stdout == "alice@2\n"
    assert run("models", "pull", "sd14", "--dry-run").stdout == "sd14 is here already\n"


def test_a_folder_of_ones_own_is_sent_to_the_observers(
    served: None,
    photo: str,
    tiny_folders: dict[str, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    shutil.copytree(tiny_folders["sd1"], tmp_path / "own")
    (tmp_path / "own" / "pmagic.toml").unlink()
    learn = ("learn", photo, "--name", "alice", "--base", str(tmp_path / "own"), *FAST)
    refused = run(*learn)
    assert refused.exit_code == 7
    assert commands(refused) == [
        ["models", "pull", name] for name in (model_spec.CLIP_REPO, model_spec.CLIPSEG_REPO, "buffalo_l")
    ]
    for words in commands(refused):
        assert run(*words).exit_code == 0, words
    done = run(*learn)
    assert done.exit_code == 0, done.stderr


def test_a_pulled_base_that_was_damaged_is_not_said_to_be_here(served: None, photo: str, home: Path) -> None:
    assert run("models", "pull", "sd14").exit_code == 0
    weights = model_spec.resolve("sd14").folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    pulled, learned, shown = run("models", "pull", "sd14"), run("learn", photo, "--name", "a"), run("doctor")
    again = [["models", "rm", "sd14"], ["models", "pull", "sd14"]]
    assert (pulled.exit_code, learned.exit_code, commands(pulled), commands(learned)) == (7, 7, again, again)
    assert "`pmagic models rm sd14`" in shown.stdout
    for words in again:
        assert run(*words).exit_code == 0, words
    assert run("learn", photo, "--name", "a", "--recipe", "reference", *FAST).exit_code == 0


def test_a_dry_run_names_all_that_learning_needs_and_fetches_nothing(served: None, home: Path) -> None:
    done = run("models", "pull", "sd14", "--dry-run")
    assert done.exit_code == 0, done.stderr
    rows = [line.split("  ") for line in done.stdout.splitlines()[1:-1]]
    assert [row[0] for row in rows] == [
        "CompVis/stable-diffusion-v1-4",
        model_spec.CLIP_REPO,
        model_spec.CLIPSEG_REPO,
        "buffalo_l",
    ]
    assert [row[-1].strip() for row in rows] == [*["pmagic models pull sd14"] * 3, "pmagic models pull buffalo_l"]
    assert "non-commercial research only" in done.stdout
    assert not (home / "models").exists()
