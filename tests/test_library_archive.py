"""Archives: the same bytes for the same persona, nothing trusted on the way back."""

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from archives import exported

from pmagic.errors import BundleDamaged, NotFound, PmagicError, UsageError
from pmagic.library import archive, bundle
from pmagic.library.store import Library
from pmagic.persona import Persona

Make = Callable[..., Persona]


def zipped(members: list[tuple[str, bytes]], kind: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as made:
        for name, data in members:
            made.writestr(name, data)
    return buffer.getvalue()


def test_out_and_in_again_is_the_same_persona(tmp_path: Path, library: Library, persona: Make) -> None:
    library.save("alice", persona(preview=b"\x89PNG"))
    assert str(library.export("alice")[0]) == "alice@1"
    data = exported(library, "alice")
    (tmp_path / "alice.pmagic").write_bytes(data)
    again = library.import_archive(tmp_path / "alice.pmagic", "bob")
    (_, first), (_, second) = library.load("alice"), library.load("bob")
    assert str(again) == "bob@1" and first.preview == second.preview and first.settings == second.settings
    assert all(np.array_equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    assert exported(library, "bob") == data  # neither name, nor time, nor machine is in it


def test_every_changed_bit_is_found(tmp_path: Path, library: Library, persona: Make) -> None:
    """Of the members' content; a zip's own bookkeeping may differ where the content does not."""
    library.save("alice", persona(tensors={"w": np.array([1.0], dtype=np.float32)}, preview=b"PNG"))
    data = exported(library, "alice")
    whole = bundle.files(library.root / "alice" / "v0001")
    path = tmp_path / "a.pmagic"
    path.write_bytes(data)
    with path.open("r+b", buffering=0) as file:
        for position, value in enumerate(data):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([value ^ 1 << bit]), position)
                try:
                    found = archive.unpack(path)
                    bundle.verify_files(found)
                except PmagicError:
                    continue
                assert found == whole, (position, bit)
            os.pwrite(file.fileno(), bytes([value]), position)
    assert archive.unpack(path) == whole


@pytest.mark.parametrize("cut", [0, 1, 30, -1, -22])
def test_a_cut_archive_is_refused(tmp_path: Path, library: Library, persona: Make, cut: int) -> None:
    library.save("alice", persona())
    path = tmp_path / "a.pmagic"
    path.write_bytes(exported(library, "alice")[:cut])
    with pytest.raises((UsageError, BundleDamaged)):
        archive.unpack(path)


@pytest.mark.parametrize(
    "names",
    [
        ["persona.toml"],
        ["persona.toml", "tensors.safetensors", "../evil"],
        ["persona.toml", "tensors.safetensors", "/etc/passwd"],
        ["persona.toml", "tensors.safetensors", "more.py"],
        ["persona.toml", "persona.toml", "tensors.safetensors"],
        [],
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_other_members_are_refused(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "a.pmagic"
    path.write_bytes(zipped([(name, b"x") for name in names]))
    with pytest.raises(BundleDamaged, match="not an archive as pmagic writes it"):
        archive.unpack(path)
    assert [each.name for each in tmp_path.iterdir()] == ["a.pmagic"]


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.pmagic"
    bomb = [("persona.toml", bytes(50 * 1024**2)), ("tensors.safetensors", b"")]
    path.write_bytes(zipped(bomb, zipfile.ZIP_DEFLATED))
    assert path.stat().st_size < 100_000
    with pytest.raises(BundleDamaged, match="compressed or too large"):
        archive.unpack(path)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        archive.unpack(tmp_path / "nothing.pmagic")
    (tmp_path / "text.pmagic").write_text("hello")
    with pytest.raises(UsageError, match="is not a persona's archive"):
        archive.unpack(tmp_path / "text.pmagic")


def test_rename_takes_all_versions_and_replaces_nobody(library: Library, persona: Make) -> None:
    library.save("alice", persona())
    library.save("alice", persona(word="woman"))
    library.save("bob", persona())
    with pytest.raises(UsageError, match="'bob' is taken"):
        library.rename("alice", "bob")
    assert [str(each) for each in library.rename("alice", "carol")] == ["carol@1", "carol@2"]
    assert library.names() == ["bob", "carol"] and library.load("carol")[1].word == "woman"
    assert [str(each) for each in library.rename("carol", "Carol")] == ["Carol@1", "Carol@2"]
    with pytest.raises(UsageError, match="too close"):
        library.rename("bob", "CAROL")


def test_a_copy_is_a_version_of_its_own(library: Library, persona: Make) -> None:
    library.save("alice", persona())
    library.save("alice", persona(word="woman"))
    assert str(library.copy("alice@1", "bob")) == "bob@1"
    assert str(library.copy("alice", "bob")) == "bob@2"
    assert library.load("bob@1")[1].word == "face" and library.load("bob")[1].word == "woman"
