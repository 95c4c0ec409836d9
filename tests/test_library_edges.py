"""Rare cases in the library: other systems, other processes in between, files that cannot be read."""

import ctypes
import errno
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pmagic import atomic_io
from pmagic.errors import BundleDamaged, Busy, StorageFailed, UsageError
from pmagic.library import archive, bundle, probes, tensors, unfinished
from pmagic.library.naming import Address
from pmagic.library.store import Library
from pmagic.persona import Persona, StageBounds

Make = Callable[..., Persona]


def rewritten(library: Library, change: Callable[[bytes], bytes]) -> Path:
    """alice's folder, with another persona.toml whose hash agrees."""
    folder = library.root / "alice" / "v0001"
    body = change((folder / bundle.TOML).read_bytes().partition(b"\n")[2])
    head = f"# pmagic persona, SHA-256 of the lines below: {hashlib.sha256(body).hexdigest()}\n"
    (folder / bundle.TOML).write_bytes(head.encode() + body)
    return folder


def test_a_glance_at_hostile_bounds_is_refused_as_a_full_look_is(library: Library, persona: Make) -> None:
    settings = {"recipe": "paper", "iterations": 1, "seed": 2}
    library.save("alice", persona(settings=settings))
    folder = rewritten(library, lambda body: body.replace(b"low = 400", b"low = 900"))
    with pytest.raises(BundleDamaged, match="its bounds cannot be"):
        bundle.summary(folder)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"[bounds]\nlow = 400\nhigh = 800\n", b"[bounds]\nlow = 400\n", "its bounds cannot be"),
        (b"[bounds]\nlow = 400\nhigh = 800\n", b"", "its fields differ: bounds"),
        (b'"tensors.safetensors" = "', b'"tensors.safetensors" = "x', "its files are not SHA-256"),
        (b"format = 1", b"format = ", "it does not parse"),
    ],
)
def test_a_persona_toml_that_lies(library: Library, persona: Make, old: bytes, new: bytes, said: str) -> None:
    library.save("alice", persona())
    folder = rewritten(library, lambda body: body.replace(old, new))
    with pytest.raises(BundleDamaged, match=said):
        bundle.verify(folder)


def test_files_that_are_missing_too_large_or_cannot_be_read(
    library: Library, persona: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.save("alice", persona())
    folder = library.root / "alice" / "v0001"
    files = bundle.files(folder)
    for name in files:
        with pytest.raises(BundleDamaged, match=f"{name}: it is missing"):
            bundle.verify_files({each: data for each, data in files.items() if each != name})
    monkeypatch.setitem(bundle.MAX_BYTES, bundle.TENSORS, 10)
    with pytest.raises(BundleDamaged, match="not a file of at most 10 bytes"):
        bundle.verify(folder)
    monkeypatch.undo()
    real = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, size: real(descriptor, min(size, 7)))  # short reads are legal
    bundle.verify(folder)

    def broken(descriptor: int, size: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "read", broken)
    with pytest.raises(BundleDamaged, match="it cannot be read: Input/output error"):
        bundle.verify(folder)


def test_an_archive_that_is_too_large_or_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pmagic"
    path.write_bytes(bytes(20))
    monkeypatch.setattr(archive, "_MAX_BYTES", 10)
    with pytest.raises(BundleDamaged, match="larger than 10 bytes"):
        archive.unpack(path)
    monkeypatch.undo()

    def refuse(self: Path, mode: str) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UsageError, match="cannot be read: Permission denied"):
        archive.unpack(path)


def test_systems_without_the_rename_that_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another C library, an old kernel, another system: the check before the rename is there in each case."""

    def renames() -> None:
        for name in ("a", "b"):
            (tmp_path / name).mkdir(exist_ok=True)
        with pytest.raises(FileExistsError):
            atomic_io.rename_new(tmp_path / "a", tmp_path / "b")
        (tmp_path / "b").rmdir()
        atomic_io.rename_new(tmp_path / "a", tmp_path / "b")
        assert not (tmp_path / "a").exists()

    class Without:
        def __init__(self, *rest: object, **more: object) -> None:
            pass

    class Old(Without):
        def renameat2(self, *rest: object) -> int:
            ctypes.set_errno(errno.EINVAL)
            return -1

    for kind in (Without, Old):
        monkeypatch.setattr(ctypes, "CDLL", kind)
        renames()
    monkeypatch.undo()
    monkeypatch.setattr(sys, "platform", "darwin")
    renames()


def test_windows_has_no_folder_to_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_io.os, "name", "nt")
    atomic_io.sync_folder(Path.__new__(type(tmp_path), "there is no such folder"))


@pytest.mark.parametrize(
    ("number", "said"), [(errno.EROFS, "read-only"), (errno.EACCES, "permissions"), (errno.EIO, "check the disk")]
)
def test_what_cannot_be_stored_is_told_with_advice(number: int, said: str) -> None:
    with pytest.raises(StorageFailed) as caught, atomic_io.storing("x"):
        raise OSError(number, os.strerror(number))
    assert said in caught.value.next_step


def test_a_base_is_known_from_the_newest_version_that_is_whole(library: Library, persona: Make) -> None:
    library.save("alice", persona())
    library.save("alice", persona())
    (library.root / "alice" / "v0002" / bundle.TOML).write_bytes(b"x")
    assert library.save("alice", persona()) == Address("alice", 3)
    for version in (1, 3):
        (library.root / "alice" / f"v000{version}" / bundle.TOML).write_bytes(b"x")
    library.require_same_base("alice", "sd14", "c" * 64)  # no version states its base, so any base is accepted
    assert library.entry(Address("alice", 1)).problem is not None


def test_a_tensor_that_cannot_be_kept_is_a_defect() -> None:
    for name, array in (("w", np.zeros(2)), ("a b", np.zeros(2, np.float32))):
        with pytest.raises(ValueError, match="must be float32 or float16 under a plain name"):
            tensors.layout({name: array})


@pytest.mark.parametrize("header", [b'{"a b":{}}', b'{"w":3}', b'{"w":{"dtype":1,"shape":[],"data_offsets":[0,0]}}'])
def test_a_header_of_other_things(header: bytes) -> None:
    with pytest.raises(BundleDamaged, match=r"its header holds|has unexpected fields"):
        tensors.read(len(header).to_bytes(8, "little") + header, (("w", "F32", (2,)),))


def test_unfinished_learnings_hold_order_probe_and_checkpoint(tmp_path: Path) -> None:
    assert unfinished.names(tmp_path) == [] and unfinished.read_options(tmp_path, "alice") == b""
    found = probes.ProbeResult(StageBounds(300, 700), ((800, 0.5), (400, 0.75)), "")
    with unfinished.locked_run(tmp_path, "alice") as folder:
        probes.keep(folder, {"photo": "a"}, found)
        unfinished.keep_options(folder, b"words")
        assert probes.find(folder, {"photo": "a"}) == found
        assert probes.find(folder, {"photo": "b"}) is None
        with pytest.raises(Busy), unfinished.locked_run(tmp_path, "alice"):
            pass
    assert unfinished.resumable_names(tmp_path) == ["alice"] and unfinished.read_options(tmp_path, "alice") == b"words"
    with unfinished.locked_run(tmp_path, "alice") as folder:
        unfinished.clear(folder)
        assert unfinished.file_for(folder, {"a": 1}) != unfinished.file_for(folder, {"a": 2})
    assert not (tmp_path / ".unfinished" / "alice").exists()
    with unfinished.locked_run(tmp_path, "bob") as folder:
        unfinished.keep_options(folder, b"an order alone is nothing to go on from")
    assert unfinished.names(tmp_path) == []
    with pytest.raises(KeyboardInterrupt), unfinished.locked_run(tmp_path, "bob") as folder:
        unfinished.keep_options(folder, b"where the person stops it, the learning can begin again")
        raise KeyboardInterrupt
    assert unfinished.resumable_names(tmp_path) == ["bob"]
    with pytest.raises(Busy), unfinished.locked_run(tmp_path, "bob") as folder:
        unfinished.clear(folder)
        raise Busy("a problem is no stop")
    with unfinished.locked_run(tmp_path, "carol") as folder:
        unfinished.keep_options(folder, bytes(unfinished._MAX_ORDER + 1))
        assert unfinished.read_options(tmp_path, "carol") == b""
