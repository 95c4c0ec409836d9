"""Names and paths: what a persona may be called, and that nothing leads out of the library."""

# ruff: noqa: F811 - the arguments of a test have the names of its fixtures

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from test_library_bundle import folder  # noqa: F401 - a fixture
from typer.testing import CliRunner

from pmagic.cli.app import app
from pmagic.errors import BundleDamaged, UsageError
from pmagic.library import bundle, naming
from pmagic.library.naming import Address
from pmagic.library.store import Library
from pmagic.persona import Persona

Make = Callable[..., Persona]
runner = CliRunner()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a/b",
        "../up",
        "a\\b",
        ".hidden",
        "-n",
        "alice@2",
        "al\x00ice",
        "al\x1bice",
        "x" * 101,
        "con",
        " a",
        "a.",
        "{}",
    ],
)
def test_a_name_that_cannot_be_a_folder_everywhere_is_refused(library: Library, persona: Make, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a persona's name"):
        library.save(name, persona())
    assert not library.root.exists()


def test_names_of_other_scripts_are_kept_composed(library: Library, persona: Make) -> None:
    library.save("Zoe\u0308", persona())
    assert library.names() == ["Zo\u00eb"]
    assert library.find("Zo\u00eb") == library.find("Zoe\u0308")


def test_a_name_that_differs_by_case_only_is_refused(library: Library, persona: Make) -> None:
    library.save("Alice", persona())
    with pytest.raises(UsageError, match="too close to the persona 'Alice'"):
        library.save("alice", persona())


def test_links_and_foreign_folders_are_no_personas(library: Library, persona: Make, tmp_path: Path) -> None:
    library.save("alice", persona())
    (library.root / "carol").symlink_to(library.root / "alice")
    (library.root / "notes").mkdir()
    (library.root / "alice" / "v1").mkdir()
    assert library.names() == ["alice"]
    assert library.versions("alice") == [1]


def test_an_address_is_a_name_and_a_version() -> None:
    assert naming.parse("alice@3") == ("alice", 3)
    assert naming.version_of("v12345") == 12345 and naming.version_of("v00001") is None
    for text in ("alice@", "alice@0", "alice@01", "alice@x", "alice@\u0663"):
        with pytest.raises(UsageError, match="does not address a version"):
            naming.parse(text)
    with pytest.raises(UsageError, match=r"control character U\+200B"):
        naming.check_name("a\u200bb")


@pytest.mark.parametrize("name", [bundle.TOML, bundle.TENSORS])
def test_a_pipe_or_a_folder_in_the_place_of_a_file_hangs_nobody(library: Library, persona: Make, name: str) -> None:
    library.save("alice", persona())
    path = library.root / "alice" / "v0001" / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BundleDamaged, match="not a file"):
        library.verify("alice")
    path.unlink()
    path.mkdir()
    with pytest.raises(BundleDamaged, match="not a file"):
        library.verify("alice")


def test_a_name_over_an_empty_folder_that_a_stopped_process_left(library: Library, persona: Make) -> None:
    library.save("alice", persona())
    (library.root / "bob").mkdir()
    assert library.rename("alice", "bob") == [Address("bob", 1)]


def test_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes((folder / "tensors.safetensors").read_bytes())
    (folder / "tensors.safetensors").unlink()
    (folder / "tensors.safetensors").symlink_to(outside)
    with pytest.raises(BundleDamaged, match=r"tensors\.safetensors"):
        bundle.read(folder)


@pytest.mark.parametrize(
    ("name", "code"), [("sd14", 3), ("..", 3), (".", 3), ("", 2), ("mini", 2), ("buffalo_l", 3), ("../library", 3)]
)
def test_models_rm_removes_nothing_else(home: Path, library: Library, persona: Make, name: str, code: int) -> None:
    library.save("alice", persona())
    (home / "models").mkdir()
    done = runner.invoke(app, ["models", "rm", name])
    assert done.exit_code == code, done.output
    assert library.names() == ["alice"] and (home / "models").is_dir()


def test_an_archive_whose_file_name_is_no_name_needs_one(library: Library, persona: Make, tmp_path: Path) -> None:
    library.save("alice", persona())
    runner.invoke(app, ["export", "alice", str(tmp_path / "{x}.pmagic")])
    done = runner.invoke(app, ["import", str(tmp_path / "{x}.pmagic")])
    assert done.exit_code == 2 and "--as NAME" in done.stderr
