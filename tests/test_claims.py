"""Compares the claims of messages with the disk, at every step at which a disk can fail; also for links and readers."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from test_library_crashes import FaultyDisk
from typer.testing import CliRunner

from pmagic import atomic_io
from pmagic.cli import names
from pmagic.cli.app import app
from pmagic.cli.resuming import LearnArgs, recall
from pmagic.errors import BundleDamaged, NotFound, PmagicError, StorageFailed, UsageError
from pmagic.library import bundle, unfinished
from pmagic.library.store import STAGING, Library
from pmagic.persona import Persona

Make = Callable[..., Persona]
runner = CliRunner()


def contents(library: Library) -> dict[str, bytes]:
    """Every file that a reader of the library can see."""
    return {
        f"{address}/{name}": data
        for address in library.addresses()
        for name, data in bundle.files(library.entry(address).folder).items()
    }


VERBS: dict[str, Callable[[Library, Make], object]] = {
    "save": lambda library, persona: library.save("alice", persona(word="cat3")),
    "save-first": lambda library, persona: library.save("carl", persona(word="cat3")),
    "mv": lambda library, persona: library.rename("alice", "anna"),
    "rm": lambda library, persona: library.remove("alice"),
    "rm-version": lambda library, persona: library.remove("alice@1"),
}


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("verb", VERBS)
def test_after_each_fault_the_claim_agrees_with_the_disk(
    verb: str, once: bool, tmp_path: Path, persona: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    for step in range(1, 60):
        library = Library(tmp_path / f"{step}")
        library.save("alice", persona(word="cat1"))
        library.save("alice", persona(word="cat2"))
        before = contents(library)
        with monkeypatch.context() as patch:
            disk = FaultyDisk(patch, step, OSError(errno.EIO, os.strerror(errno.EIO)), once)
            try:
                VERBS[verb](library, persona)
            except StorageFailed as problem:
                claim = problem.kept
            except PmagicError as problem:  # as NotFound of a name that cannot be listed
                claim = problem.kept or "nothing that was stored before has changed"
            else:
                claim = ""
        if disk.steps < step:
            break
        after = contents(library)
        if claim == "nothing that was stored before has changed":
            assert {name: after.get(name) for name in before} == before, (step, claim)
            seen.add("unchanged")
        elif claim:
            assert after != before, (step, claim)
            seen.add("changed")
    assert disk.steps < step  # every step was tried
    assert seen == {"unchanged", "changed"}


COMMANDS = {
    "rm": ["rm", "alice"],
    "rm-version": ["rm", "alice@1"],
    "rm-unfinished": ["rm", "bob"],
    "mv": ["mv", "alice", "anna"],
    "cp": ["cp", "alice@1", "carl"],
    "import": ["import", "alice.pmagic", "--as", "dora"],
    "export": ["export", "alice", "again.pmagic"],
    "config-set": ["config", "set", "format", "webp"],
    "models-rm": ["models", "rm", "owner/model"],
    "gallery": ["gallery", "--out", "page.html"],
}


def files_of(home: Path) -> dict[str, bytes]:
    """Every file except locks and hidden files of a change in progress."""
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in sorted(home.rglob("*"))
        if path.is_file() and not any(part[0] == "." for part in path.relative_to(home).parts)
    }


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_after_each_fault_what_a_command_says_agrees_with_the_disk(
    words: list[str], once: bool, tmp_path: Path, persona: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(1, 150):
        home = tmp_path / str(step)
        monkeypatch.setenv("PMAGIC_HOME", str(home))
        home.mkdir()
        monkeypatch.chdir(home)
        library = Library(home / "library")
        library.save("alice", persona(word="cat1"))
        library.save("alice", persona(word="cat2"))
        for name in ("alice", "bob"):
            with unfinished.locked_run(library.root, name) as folder:
                for number in range(2):
                    (folder / f"{number}.checkpoint").write_bytes(b"state")
        (home / "config.toml").write_text('device = "cpu"\n')
        (home / "models" / "owner--model").mkdir(parents=True)
        (home / "models" / "owner--model" / "weights.safetensors").write_bytes(b"weights")
        (home / "alice.pmagic").write_bytes(library.export("alice")[1])
        before = files_of(home)
        with monkeypatch.context() as patch:
            disk = FaultyDisk(patch, step, OSError(errno.EIO, os.strerror(errno.EIO)), once)
            done = runner.invoke(app, words)
        after = files_of(home)
        assert "defect" not in done.stderr, (step, done.stderr)
        if "kept: nothing that was stored before has changed" in done.stderr:
            assert {name: after.get(name) for name in before} == before, (step, done.stderr)
        elif done.exit_code:
            assert "  kept: " in done.stderr or after == before, (step, done.stderr)
        if disk.steps < step:
            break
    assert disk.steps < step and done.exit_code == 0


def removal_that_failed(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hidden folder that a `models rm` leaves whose disk fails while it erases."""
    (home / "models" / "owner--model").mkdir(parents=True)
    (home / "models" / "owner--model" / "weights.safetensors").write_bytes(b"w" * 10_000_000)
    with monkeypatch.context() as patch:

        def failing(path: Path) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        patch.setattr(atomic_io, "erase", failing)
        done = runner.invoke(app, ["models", "rm", "owner/model"])
    assert done.exit_code == 8
    (hidden,) = (home / "models").iterdir()
    assert f"owner--model is removed; what is left of its files lies in {hidden}\n" in done.stderr
    assert "run the command again" in done.stderr
    return hidden


@pytest.mark.parametrize("words", [["list"], ["pull", "mini"], ["rm", "owner/model"], ["rm", "other/model"]])
def test_the_next_change_clears_what_a_failed_removal_of_a_model_has_left(
    words: list[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = removal_that_failed(home, monkeypatch)
    (home / "models" / "other--model").mkdir()
    done = runner.invoke(app, ["models", *words])
    assert not hidden.exists() and "defect" not in done.stderr
    if words == ["rm", "owner/model"]:
        assert (done.exit_code, done.stdout) == (0, "owner/model\n")
        again = runner.invoke(app, ["models", *words])
        assert again.exit_code == 3 and "owner/model is not on this machine" in again.stderr


def test_what_another_process_is_removing_is_left_to_it(home: Path) -> None:
    mine = home / "models" / f".owner--model.{os.getppid()}.removed"
    mine.mkdir(parents=True)
    assert runner.invoke(app, ["models", "list"]).exit_code == 0
    assert mine.is_dir()


def test_a_model_whose_removal_failed_can_be_removed_again_after_a_new_pull(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = removal_that_failed(home, monkeypatch)
    (home / "models" / "owner--model.part").mkdir()
    assert runner.invoke(app, ["models", "rm", "owner/model"]).exit_code == 0
    assert not hidden.exists() and list((home / "models").iterdir()) == []


def test_a_save_that_fails_leaves_no_part_of_a_copy(
    tmp_path: Path, persona: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library(tmp_path)
    library.save("alice", persona(word="cat1"))

    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic_io, "write_file", full)
    with pytest.raises(StorageFailed, match="No space"):
        library.save("alice", persona(word="cat2"))
    assert list((tmp_path / STAGING).iterdir()) == []


@pytest.fixture
def linked(library: Library, persona: Make, tmp_path: Path) -> Path:
    """alice's folder is elsewhere, with a link in its place; bob's is where it should be."""
    library.save("alice", persona(word="cat1"))
    library.save("bob", persona(word="cat2"))
    runner.invoke(app, ["export", "bob", str(tmp_path / "bob.pmagic")])
    elsewhere = tmp_path / "elsewhere"
    (library.root / "alice").rename(elsewhere)
    (library.root / "alice").symlink_to(elsewhere)
    return elsewhere


@pytest.mark.parametrize(
    "words",
    [
        ["show", "alice"], ["verify", "alice"], ["rm", "alice"], ["rm", "alice@1"], ["mv", "alice", "x"],
        ["cp", "alice", "x"], ["export", "alice"], ["cp", "bob", "alice"], ["mv", "bob", "alice"],
        ["import", "bob.pmagic", "--as", "alice"],
    ],
)  # fmt: skip
def test_every_verb_refuses_a_link_in_the_same_words(
    linked: Path, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {each: each.read_bytes() for each in linked.rglob("*") if each.is_file()}
    done = runner.invoke(app, words)
    assert done.exit_code == 2, done.output
    assert f"{library.root / 'alice'} is a link, which the library never follows" in done.stderr
    assert {each: each.read_bytes() for each in linked.rglob("*") if each.is_file()} == before
    assert (library.root / "alice").is_symlink() and library.versions("bob") == [1]


@pytest.mark.parametrize("words", [["list"], ["list", "-q"], ["verify", "--all"]])
def test_what_shows_all_names_the_link_and_shows_the_others(linked: Path, words: list[str]) -> None:
    done = runner.invoke(app, words)
    assert done.exit_code == 2 and "bob@1" in done.stdout and "alice" not in done.stdout
    assert "is a link" in done.stderr


@pytest.mark.parametrize("words", [["list"], ["list", "-q"], ["verify", "--all"], ["show", "alice"], ["rm", "alice"]])
def test_one_folder_that_cannot_be_read_does_not_hide_the_others(
    library: Library, persona: Make, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    library.save("alice", persona(word="cat1"))
    library.save("bob", persona(word="cat2"))
    real = os.scandir

    def scandir(path: str | Path) -> object:
        if Path(path).name == "alice":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    done = runner.invoke(app, words)
    assert done.exit_code == 8 and "cannot be read: Permission denied" in done.stderr, done.output
    assert ("bob@1" in done.stdout) is (len(words) == 1 or words[1] in ("-q", "--all"))


@pytest.mark.parametrize("verb", ["show", "verify", "export", "cp"])
def test_a_persona_that_is_removed_while_it_is_read_is_not_called_damaged(
    library: Library, persona: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.chdir(tmp_path)
    library.save("alice", persona(word="cat1"))
    real = bundle._read

    def removed_meanwhile(folder: Path, name: str) -> bytes:
        if name != bundle.TOML:
            Library(library.root).remove("alice")
        return real(folder, name)

    monkeypatch.setattr(bundle, "_read", removed_meanwhile)
    done = runner.invoke(app, [verb, "alice", *(["bob"] if verb == "cp" else [])])
    assert done.exit_code == 3 and "there is no persona 'alice'" in done.stderr, done.output


def test_a_newer_version_that_is_removed_meanwhile_gives_the_one_before(
    library: Library, persona: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.save("alice", persona(word="cat1"))
    library.save("alice", persona(word="cat2"))
    real = bundle._read

    def removed_meanwhile(folder: Path, name: str) -> bytes:
        if folder.name == "v0002" and folder.is_dir():
            Library(library.root).remove("alice@2")
        return real(folder, name)

    monkeypatch.setattr(bundle, "_read", removed_meanwhile)
    assert str(library.load("alice")[0]) == "alice@1"


@pytest.mark.parametrize(
    "entries",
    [{"photos": 5}, {"photos": [5]}, {"seed": "x"}, {"seed": True}, {"style": "yes"}, {"base": 3}, {"batch": 1.5}],
)
def test_kept_options_of_other_types_are_refused(library: Library, entries: dict[str, object]) -> None:
    import json

    with unfinished.locked_run(library.root, "alice") as folder:
        (folder / "x.checkpoint").touch()
        unfinished.keep_options(folder, json.dumps({"photos": ["a.png"], **entries}).encode())
    with pytest.raises(BundleDamaged, match="cannot be read"):
        recall(library.root, "alice", LearnArgs())


def test_small_leftovers_are_cleared(library: Library, tmp_path: Path) -> None:
    with unfinished.locked_run(library.root, "alice") as folder:
        (folder / "x.checkpoint").mkdir()
        unfinished.clear(folder)
    assert unfinished.names(library.root) == []
    (tmp_path / ".config.toml.999999999.part").write_text("half")
    atomic_io.replace_file(tmp_path / "config.toml", b"whole")
    assert [each.name for each in tmp_path.glob(".*")] == [] or not list(tmp_path.glob(".*.part"))
    assert runner.invoke(app, ["import", str(tmp_path / "a.pmagic"), "--as", ""]).exit_code in (2, 3)


def test_a_line_in_a_path_forges_no_message() -> None:
    done = runner.invoke(app, ["learn", "a\nerror: forged", "--name", "x", "--base", "mini"])
    assert done.exit_code == 3 and "\nerror: forged" not in done.stderr and "\\nerror: forged" in done.stderr


def test_the_same_persona_is_found_again(library: Library, persona: Make) -> None:
    library.save("alice", persona(word="cat1"))
    library.save("alice", persona(word="cat2"))
    assert str(library.find_same("alice", persona(word="cat1"))) == "alice@1"
    assert library.find_same("alice", persona(word="cat3")) is None
    with pytest.raises((NotFound, UsageError)):
        library.find("bob")


def test_a_line_in_a_folders_name_makes_no_second_completion(library: Library, persona: Make, home: Path) -> None:
    library.save("alice", persona(word="cat1"))
    (library.root / "alice").rename(library.root / "alice\nbob")
    (home / "models" / "owner--a\nowner--b").mkdir(parents=True)
    library.save("anna", persona(word="cat1"))
    assert names.personas("a") == ["anna"] and names.removable("") == []


def test_commands_in_messages_quote_a_name_with_blanks(
    tmp_path: Path, persona: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library(tmp_path / "library")
    monkeypatch.setenv("PMAGIC_HOME", str(tmp_path))
    for name in ("alice", "anna lee"):
        library.save(name, persona())
    taken = runner.invoke(app, ["mv", "alice", "anna lee"])
    assert "next: remove it with `pmagic rm 'anna lee'`, or use another" in taken.stderr
    with pytest.raises(NotFound) as caught:
        recall(library.root, "bob lee", LearnArgs())
    assert caught.value.next_step == "start it with `pmagic learn PHOTO --name 'bob lee'`"


def test_the_same_name_once_more_is_not_to_be_removed(
    tmp_path: Path, persona: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PMAGIC_HOME", str(tmp_path))
    Library(tmp_path / "library").save("alice", persona())
    done = runner.invoke(app, ["mv", "alice", "alice"])
    assert done.exit_code == 2 and "error: 'alice' is called so already" in done.stderr
    assert "pmagic rm" not in done.stderr


def test_the_gallery_names_a_persona_that_is_a_link(
    tmp_path: Path, persona: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PMAGIC_HOME", str(tmp_path))
    library = Library(tmp_path / "library")
    library.save("alice", persona())
    (library.root / "bob").symlink_to(tmp_path)
    done = runner.invoke(app, ["gallery", "--out", str(tmp_path / "page.html")])
    assert done.exit_code == 0 and f"warning: left out: {library.root / 'bob'} is a link" in done.stderr
