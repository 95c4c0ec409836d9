"""Two processes at once: on one name, on one file, and on a persona that the other has just removed."""

import errno
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pmagic import atomic_io
from pmagic.errors import Busy, NotFound
from pmagic.library import store
from pmagic.library.naming import Address
from pmagic.library.store import Library
from pmagic.persona import Persona

Make = Callable[..., Persona]


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


def test_a_lock_that_is_held_is_told(library: Library, persona: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.0)
    with library._locked(), pytest.raises(Busy):
        library.save("alice", persona())


def test_a_persona_that_goes_while_it_is_looked_at(
    library: Library, persona: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.save("alice", persona())
    monkeypatch.setattr(Library, "find", lambda self, text: Address("alice", 7))
    for look in (library.load, library.verify, library.export):
        with pytest.raises(NotFound, match="alice@7 was removed by another process"):
            look("alice")


def test_a_folder_that_another_process_makes_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.mkdir

    def faster(path: Path, mode: int) -> None:
        real(path, mode)
        raise FileExistsError(errno.EEXIST, "File exists", str(path))

    monkeypatch.setattr(os, "mkdir", faster)
    atomic_io.make_folder(tmp_path / "a")
    assert (tmp_path / "a").is_dir()
    monkeypatch.undo()
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        atomic_io.make_folder(tmp_path / "file")


def test_two_learnings_of_one_name_at_once_are_busy(library: Library) -> None:
    from pmagic.errors import Busy
    from pmagic.library import unfinished

    with (
        unfinished.locked_run(library.root, "alice"),
        pytest.raises(Busy, match="another pmagic is learning 'alice'"),
        unfinished.locked_run(library.root, "alice"),
    ):
        pass
    assert not (library.root / unfinished.FOLDER / "alice").exists()


@pytest.mark.parametrize("nameless", [True, False])
def test_processes_that_write_one_file_at_once_get_different_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool
) -> None:
    if not nameless:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write_some, args=(tmp_path / "a.pmagic", bytes([k]) * 99)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    found = sorted(path.read_bytes() for path in tmp_path.iterdir())
    assert found == sorted(bytes([k]) * 99 for k in range(4) for _ in range(5))


def _write_some(target: Path, data: bytes) -> None:
    for _ in range(5):
        atomic_io.publish_file(data, target)
