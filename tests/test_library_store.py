"""The collection: versions, names, removal, and two processes at once."""

import multiprocessing
import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pmagic.errors import Busy, Incompatible, NotFound, NumericFailure, StorageFailed, UsageProblem
from pmagic.library import durable, store
from pmagic.library.naming import Address
from pmagic.library.store import Library
from pmagic.persona import Persona, StageBounds

Make = Callable[..., Persona]


def test_what_was_saved_is_what_is_loaded(library: Library, persona: Make) -> None:
    kept = persona(bounds=StageBounds(300, 750), preview=b"\x89PNG small")
    address, loaded = library.load(str(library.save("alice", kept)))
    assert address == Address("alice", 1)
    for field in ("method", "base", "fingerprint", "word", "bounds", "losses", "curve", "photos", "preview"):
        assert getattr(loaded, field) == getattr(kept, field), field
    assert dict(loaded.settings) == dict(kept.settings)
    assert set(loaded.tensors) == set(kept.tensors)
    for name, array in kept.tensors.items():
        assert loaded.tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded.tensors[name], array)


def test_saving_again_makes_the_next_version_and_keeps_the_first(library: Library, persona: Make) -> None:
    library.save("alice", persona(word="face"))
    before = _bytes_of(library.root / "alice" / "v0001")
    assert library.save("alice", persona(word="woman")) == Address("alice", 2)
    assert library.load("alice")[1].word == "woman"
    assert library.load("alice@1")[1].word == "face"
    assert _bytes_of(library.root / "alice" / "v0001") == before


def test_a_removed_version_number_is_not_used_for_another_persona_while_later_ones_exist(
    library: Library, persona: Make
) -> None:
    for _ in range(3):
        library.save("alice", persona())
    assert library.remove("alice@1") == [Address("alice", 1)]
    assert library.save("alice", persona()) == Address("alice", 4)
    assert library.versions("alice") == [2, 3, 4]


def test_removing_a_name_erases_every_file_of_it(library: Library, persona: Make) -> None:
    library.save("alice", persona())
    library.save("alice", persona())
    library.save("bob", persona())
    assert [str(each) for each in library.remove("alice")] == ["alice@1", "alice@2"]
    assert library.names() == ["bob"]
    assert not any("alice" in str(path) for path in library.root.rglob("*"))


def test_an_unknown_name_proposes_the_closest(library: Library, persona: Make) -> None:
    library.save("alice", persona())
    with pytest.raises(NotFound) as caught:
        library.load("alcie")
    assert caught.value.next_step == "did you mean 'alice'?"
    with pytest.raises(NotFound, match="has no version 7"):
        library.load("alice@7")


def test_a_name_stands_for_one_base(library: Library, persona: Make) -> None:
    library.save("alice", persona())
    with pytest.raises(Incompatible, match="learned on mini, this is sd14"):
        library.save("alice", persona(base="sd14", fingerprint="c" * 64))
    with pytest.raises(Incompatible, match="with other weights"):
        library.save("alice", persona(fingerprint="c" * 64))
    assert library.versions("alice") == [1]


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
    with pytest.raises(UsageProblem, match="cannot be a persona's name"):
        library.save(name, persona())
    assert not library.root.exists()


def test_names_of_other_scripts_are_kept_composed(library: Library, persona: Make) -> None:
    library.save("Zoe\u0308", persona())
    assert library.names() == ["Zo\u00eb"]
    assert library.find("Zo\u00eb") == library.find("Zoe\u0308")


def test_a_name_that_differs_by_case_only_is_refused(library: Library, persona: Make) -> None:
    library.save("Alice", persona())
    with pytest.raises(UsageProblem, match="too close to the persona 'Alice'"):
        library.save("alice", persona())


def test_values_that_are_not_finite_are_never_kept(library: Library, persona: Make) -> None:
    with pytest.raises(NumericFailure, match="image_embedding"):
        library.save("alice", persona(tensors={"image_embedding": np.array([1, np.nan], dtype=np.float32)}))
    assert library.names() == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_folders_and_files_are_private(library: Library, persona: Make) -> None:
    library.save("alice", persona())
    for path in [library.root, *library.root.rglob("*")]:
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_listing_needs_no_lock_and_shows_a_damaged_version_beside_the_others(library: Library, persona: Make) -> None:
    library.save("alice", persona())
    library.save("bob", persona())
    (library.root / "alice" / "v0001" / "persona.toml").write_text("nonsense")
    entries = library.entries()
    assert [str(entry.address) for entry in entries] == ["alice@1", "bob@1"]
    assert entries[0].manifest is None
    assert "persona.toml" in str(entries[0].problem)
    assert entries[1].manifest is not None


def test_links_and_foreign_folders_are_no_personas(library: Library, persona: Make, tmp_path: Path) -> None:
    library.save("alice", persona())
    (library.root / "carol").symlink_to(library.root / "alice")
    (library.root / "notes").mkdir()
    (library.root / "alice" / "v1").mkdir()
    assert library.names() == ["alice"]
    assert library.versions("alice") == [1]


def test_a_full_disk_says_so_and_changes_nothing(
    library: Library, persona: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.save("alice", persona())
    before = _bytes_of(library.root / "alice")

    def full(descriptor: int, data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable.os, "write", full)
    with pytest.raises(StorageFailed, match="No space left") as caught:
        library.save("alice", persona())
    assert "free some space" in caught.value.next_step
    monkeypatch.undo()
    assert _bytes_of(library.root / "alice") == before


def test_a_held_lock_ends_in_busy(library: Library, persona: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import filelock

    library.save("alice", persona())
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.05)
    with filelock.FileLock(library.root / store.LOCK), pytest.raises(Busy):
        library.save("alice", persona())


def test_processes_that_save_one_name_at_once_get_different_versions(library: Library, persona: Make) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_save_some, args=(library, persona())) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert library.versions("alice") == list(range(1, 13))
    assert all(entry.problem is None for entry in library.entries())


def _save_some(library: Library, persona: Persona) -> None:
    for _ in range(3):
        library.save("alice", persona)


def _bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
