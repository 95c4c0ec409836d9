"""The collection: versions, names, removal, and two processes at once."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pmagic import atomic_io
from pmagic.errors import Incompatible, NotFound, StorageFailed
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


def test_listing_needs_no_lock_and_shows_a_damaged_version_beside_the_others(library: Library, persona: Make) -> None:
    library.save("alice", persona())
    library.save("bob", persona())
    (library.root / "alice" / "v0001" / "persona.toml").write_text("nonsense")
    entries = library.entries()
    assert [str(entry.address) for entry in entries] == ["alice@1", "bob@1"]
    assert entries[0].manifest is None
    assert "persona.toml" in str(entries[0].problem)
    assert entries[1].manifest is not None


def test_a_full_disk_says_so_and_changes_nothing(
    library: Library, persona: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.save("alice", persona())
    before = _bytes_of(library.root / "alice")

    def full(descriptor: int, data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_io.os, "write", full)
    with pytest.raises(StorageFailed, match="No space left") as caught:
        library.save("alice", persona())
    assert "free some space" in caught.value.next_step
    monkeypatch.undo()
    assert _bytes_of(library.root / "alice") == before


def _bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
