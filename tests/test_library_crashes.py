"""Crash points: whatever step of a save or a removal fails or is never reached, no half persona is visible."""

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pmagic import atomic_io, pictures
from pmagic.cli import gallery
from pmagic.errors import NotFound, PmagicError
from pmagic.library import unfinished
from pmagic.library.store import Library
from pmagic.persona import Persona

Make = Callable[..., Persona]


class Crash(BaseException):
    """The process is gone: none of its cleanup runs."""


_WRITE, _CLOSE = os.write, os.close
STEPS = ("mkdir", "open", "write", "fsync", "link", "replace", "unlink", "rmdir", "close")
FAULTS = [
    pytest.param(Crash(), True, id="crash"),
    *(
        pytest.param(OSError(number, os.strerror(number)), once, id=f"{errno.errorcode[number]}-{kind}")
        for number in (errno.ENOSPC, errno.EIO)
        for once, kind in ((True, "once"), (False, "from-here-on"))
    ),
    *(pytest.param(None, once, id=f"short-write-{kind}") for once, kind in ((True, "once"), (False, "from-here-on"))),
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing takes most of the time and does not matter here; for losses of power see test_library_power_loss."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class FaultyDisk:
    """Counts the disk steps of `atomic_io` and fails at the given one; after a crash no step has any effect.

    once: whether it fails at that step alone (a disk that is full for a moment), or at each from there on.
    A write fails in the middle: half of the bytes are there. failure None: half of them are, and it says so, which
    is no error. A file is closed in every case, as the system closes those of a process that is gone.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, fail_at: int | None, failure: BaseException | None, once: bool = True
    ) -> None:
        self.steps = 0
        self.fail_at = fail_at
        self.failure = failure
        self.once = once and not isinstance(failure, Crash)
        self.failing = False
        for name in STEPS:
            monkeypatch.setattr(atomic_io.os, name, self._watched(getattr(os, name)))
        monkeypatch.setattr(atomic_io, "rename_new", self._watched(atomic_io.rename_new))

    def _watched(self, real: Callable) -> Callable:
        def step(*args: object, **kwargs: object) -> object:
            self.steps += 1
            now = self.steps == self.fail_at
            if not now and not self.failing:
                return real(*args, **kwargs)
            self.failing = not self.once
            if real is _CLOSE:
                real(*args)
            if real is _WRITE and (now or self.failure is None):
                descriptor, data = args
                written = real(descriptor, data[: -(-len(data) // 2)])
                if self.failure is None:
                    return written
            if self.failure is None:
                return None if real is _CLOSE else real(*args, **kwargs)
            raise self.failure

        return step


def _count(tmp_path: Path, persona: Make, act: Callable[[Library], object]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        library = _prepared(tmp_path / "count", persona)
        disk = FaultyDisk(patch, None, Crash())
        act(library)
        return disk.steps


def _prepared(root: Path, persona: Make) -> Library:
    library = Library(root)
    library.save("alice", persona(word="face"))
    return library


@pytest.mark.parametrize(("failure", "once"), FAULTS)
def test_no_step_of_a_save_leaves_a_half_version(
    tmp_path: Path, persona: Make, failure: BaseException | None, once: bool
) -> None:
    def act(library: Library) -> object:
        return library.save("alice", persona(word="woman"))

    steps = _count(tmp_path, persona, act)
    assert steps > 8
    for number in range(1, steps + 1):
        library = _prepared(tmp_path / f"save{number}", persona)
        before = {path: path.read_bytes() for path in (library.root / "alice" / "v0001").iterdir()}
        with pytest.MonkeyPatch.context() as patch:
            FaultyDisk(patch, number, failure, once)
            saved = True
            try:
                act(library)
            except (Crash, PmagicError):
                saved = False
        assert saved or failure is not None, number  # a short write is no failure
        assert library.versions("alice") in ([[1, 2]] if saved else [[1], [1, 2]]), number
        for version in library.versions("alice"):
            assert library.load(f"alice@{version}")[1].word == ("face" if version == 1 else "woman")
        assert all(path.read_bytes() == data for path, data in before.items())
        library.save("alice", persona(word="man"))  # and the library is not stuck
        assert library.load("alice")[1].word == "man"
        assert not (library.root / ".staging" / "saved").exists()


@pytest.mark.parametrize(("failure", "once"), FAULTS)
def test_no_step_of_a_removal_leaves_a_half_version(
    tmp_path: Path, persona: Make, failure: BaseException | None, once: bool
) -> None:
    steps = _count(tmp_path, persona, lambda library: library.remove("alice"))
    assert steps > 8
    for number in range(1, steps + 1):
        library = _prepared(tmp_path / f"rm{number}", persona)
        with pytest.MonkeyPatch.context() as patch:
            FaultyDisk(patch, number, failure, once)
            removed = True
            try:
                library.remove("alice")
            except (Crash, PmagicError):
                removed = False
        try:
            assert library.load("alice")[1].word == "face" and not removed, number
        except NotFound:
            assert library.names() == []
        library.clean_staging()  # and what is left of it can be erased
        assert not library.has_leftovers()


@pytest.mark.parametrize(("failure", "once"), FAULTS)
def test_no_step_of_an_import_or_a_rename_or_a_checkpoint_does(
    tmp_path: Path, persona: Make, failure: BaseException | None, once: bool
) -> None:
    archive = tmp_path / "a.pmagic"
    archive.write_bytes(_prepared(tmp_path / "source", persona).export("alice")[1])

    def checkpoint(library: Library) -> None:
        with unfinished.locked_run(library.root, "alice") as folder:
            atomic_io.replace_file(folder / "x.checkpoint", b"new" * 9)

    acts = [
        lambda library: library.import_archive(archive, "bob"),
        lambda library: library.rename("alice", "bob"),
        checkpoint,
    ]
    for which, act in enumerate(acts):
        for number in range(1, _count(tmp_path / str(which), persona, act) + 1):
            library = _prepared(tmp_path / f"{which}-{number}", persona)
            with unfinished.locked_run(library.root, "alice") as folder:
                atomic_io.replace_file(folder / "x.checkpoint", b"old" * 9)
            with pytest.MonkeyPatch.context() as patch:
                FaultyDisk(patch, number, failure, once)
                with contextlib.suppress(Crash, PmagicError, OSError):
                    act(library)
            assert library.names() in (["alice"], ["bob"], ["alice", "bob"]), (which, number)
            for name in library.names():
                assert library.load(name)[1].word == "face"
            kept = (library.root / ".unfinished" / "alice" / "x.checkpoint").read_bytes()
            assert kept in (b"old" * 9, b"new" * 9)
            library.save("carol", persona())  # and the library is not stuck
            with unfinished.locked_run(library.root, "alice"):
                pass


@pytest.mark.parametrize("nameless", [True, False])
@pytest.mark.parametrize(("failure", "once"), FAULTS)
def test_no_step_of_an_export_or_a_picture_or_a_gallery_leaves_a_half_file(
    tmp_path: Path, persona: Make, failure: BaseException | None, once: bool, nameless: bool
) -> None:
    """Nor any other file, where the system has files without a name."""
    library = _prepared(tmp_path / "library", persona)
    archive = library.export("alice")[1]
    image, story = Image.new("RGB", (8, 8)), {"prompt": "x"}
    page = gallery.page("x", "personas", [], ("base",))
    acts: dict[str, tuple[bytes, Callable[[Path], object]]] = {
        "a.pmagic": (archive, lambda path: atomic_io.publish_file(library.export("alice")[1], path)),
        "a.png": (pictures.encode_image(image, "png", story), lambda path: pictures.write_picture(image, path, story)),
        "a.html": (page, lambda path: atomic_io.publish_file(page, path)),
    }
    for name, (whole, act) in acts.items():
        done, number = False, 0
        while not done:  # past its last step nothing fails any more
            number += 1
            folder = tmp_path / f"{name}-{number}"
            with pytest.MonkeyPatch.context() as patch:
                if not nameless:
                    patch.delattr(os, "O_TMPFILE", raising=False)
                disk = FaultyDisk(patch, number, failure, once)
                with contextlib.suppress(Crash, PmagicError, OSError):
                    act(folder / name)
                done = disk.steps < number
            found = [each.name for each in folder.iterdir()] if folder.exists() else []
            assert all((folder / each).read_bytes() == whole for each in found if each[0] != "."), number
            assert found in ([], [name]) or not nameless, found
            act(folder / name)
            assert {f"{each.stat().st_mode & 0o777:o}" for each in folder.iterdir()} == {"600"}
        assert number > 5 and (folder / name).read_bytes() == whole


def test_a_file_system_without_nameless_files_has_files_all_the_same(tmp_path: Path) -> None:
    real = os.open

    def without(path: object, flags: int, *rest: object, **more: object) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(path, flags, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", without)
        atomic_io.publish_file(b"1", tmp_path / "a.txt")
        assert atomic_io.publish_file(b"2", tmp_path / "a.txt") == tmp_path / "a-2.txt"
    assert atomic_io.publish_file(b"3", tmp_path / "a.txt") == tmp_path / "a-3.txt"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "a.txt": b"1", "a-2.txt": b"2", "a-3.txt": b"3",
    }  # fmt: skip


def test_a_plain_rename_would_replace_an_empty_folder_and_ours_does_not(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(FileExistsError):
        atomic_io.rename_new(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").is_dir()


def test_everything_is_flushed_before_it_is_published(tmp_path: Path, persona: Make) -> None:
    """fsync of each file and of the staging folder before the rename, fsync of the parent after it."""
    log: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        library = _prepared(tmp_path, persona)
        opened: dict[int, str] = {}
        real_open, real_fsync, real_rename = os.open, os.fsync, atomic_io.rename_new

        def watched_open(path: object, *rest: object, **more: object) -> int:
            descriptor = real_open(path, *rest, **more)
            opened[descriptor] = Path(os.fspath(path)).name
            return descriptor

        def watched_fsync(descriptor: int) -> None:
            log.append(f"sync {opened[descriptor]}")
            real_fsync(descriptor)

        def watched_rename(source: Path, target: Path) -> None:
            log.append(f"rename {target.name}")
            real_rename(source, target)

        patch.setattr(atomic_io.os, "open", watched_open)
        patch.setattr(atomic_io.os, "fsync", watched_fsync)
        patch.setattr(atomic_io, "rename_new", watched_rename)
        library.save("alice", persona())
    renamed = log.index("rename v0002")
    assert {"sync persona.toml", "sync tensors.safetensors", "sync saved"} <= set(log[:renamed])
    assert log[renamed - 1] == "sync saved"
    assert log[renamed + 1 :] == ["sync alice"]
