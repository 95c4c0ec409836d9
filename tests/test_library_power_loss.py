"""Power loss: what was flushed stays, what was not may be cut or missing. Every moment of every change is tried.

The disk is modelled as a journaling file system promises it: changes of names arrive in their order and are safe once
their folder is flushed; the bytes of a file are safe once the file is flushed, and may be cut anywhere before.
Two mutants of the writing module, one without flushing files and one without flushing folders, must fail.
"""

import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import archives
import pytest

from pmagic import atomic_io
from pmagic.library.naming import Address, folder_of
from pmagic.library.store import Library
from pmagic.persona import Persona

Make = Callable[..., Persona]
Act = Callable[[Library, Make], object]
Event = tuple[str, Path, object]  # (what, where, with what)
NAMELESS = ".nameless-"  # what a file is called here that has no name yet
CUTS = 4  # random states of the disk at each moment


class Disk:
    """Watches everything that changes below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log: list[Event] = []
        self.opened: dict[int, Path] = {}

    def note(self, what: str, path: object, more: object = None) -> None:
        self.log.append((what, Path(os.fspath(path)), more))

    @contextmanager
    def watching(self) -> Iterator[None]:
        names = ("mkdir", "open", "write", "fsync", "replace", "unlink", "close", "link")
        real = {name: getattr(os, name) for name in names}
        rename, rmtree = atomic_io.rename_new, shutil.rmtree

        def opening(path: object, flags: int, *rest: object, **more: object) -> int:
            descriptor = real["open"](path, flags, *rest, **more)
            if not more and Path(os.fspath(path)).is_relative_to(self.root):
                if flags & os.O_TMPFILE == os.O_TMPFILE:
                    path = self.root / f"{NAMELESS}{descriptor}"
                    self.note("create", path)
                self.opened[descriptor] = Path(os.fspath(path))
                if flags & os.O_CREAT:
                    self.note("create", path)
            return descriptor

        def writing(descriptor: int, data: bytes) -> int:
            if descriptor in self.opened:
                self.note("write", self.opened[descriptor], bytes(data))
            return real["write"](descriptor, data)

        def flushing(descriptor: int) -> None:
            self.note(
                "flush folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "flush", self.opened[descriptor]
            )

        def closing(descriptor: int) -> None:
            self.opened.pop(descriptor, None)
            real["close"](descriptor)

        def linking(source: str, target: Path, **more: object) -> None:
            real["link"](source, target, **more)
            self.note("link", self.opened[int(Path(source).name)], target)

        def moving(what: str, act: Callable) -> Callable:
            def moved(source: Path, target: Path) -> None:
                act(source, target)
                self.note(what, source, target)

            return moved

        def noted(what: str, act: Callable) -> Callable:
            def done(path: Path, *rest: object, **more: object) -> None:
                act(path, *rest, **more)
                if not more and Path(os.fspath(path)).is_relative_to(self.root):
                    self.note(what, path)

            return done

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "open", opening)
            patch.setattr(os, "write", writing)
            patch.setattr(os, "fsync", flushing)
            patch.setattr(os, "close", closing)
            patch.setattr(os, "link", linking)
            patch.setattr(os, "mkdir", noted("mkdir", real["mkdir"]))
            patch.setattr(os, "unlink", noted("unlink", real["unlink"]))
            patch.setattr(os, "replace", moving("replace", real["replace"]))
            patch.setattr(atomic_io, "rename_new", moving("rename", rename))
            patch.setattr(shutil, "rmtree", noted("erase", rmtree))
            yield


def after_power_loss(before: Path, after: Path, root: Path, log: list[Event], dice: random.Random) -> None:
    """Writes to `after` one possible state of the disk after a loss of power, from `before` and the events of `log`."""
    names = [index for index, (what, _, _) in enumerate(log) if what not in ("write", "flush", "flush folder")]
    safe = 0  # changes of names that are flushed, with all before them
    for index, (what, path, _) in enumerate(log):
        if what == "flush folder":
            touched = [each for each in names if each < index and path in _folders(log[each])]
            safe = max([safe, *(names.index(each) + 1 for each in touched)])
    arrived = set(names[: dice.randint(safe, len(names))])
    shutil.copytree(before, after)

    def there(path: Path) -> Path:
        return after / path.relative_to(root)

    for index in sorted(arrived):
        what, path, more = log[index]
        if what == "mkdir":
            there(path).mkdir(exist_ok=True)
        elif what == "create" and path.name != ".lock":
            content = _content(log, index, path)
            kept = flushed_bytes(log, index, path)
            there(path).write_bytes(content[: dice.randint(kept, len(content))])
        elif what == "unlink":
            there(path).unlink(missing_ok=True)
        elif what in ("rename", "replace", "link"):
            os.replace(there(path), there(more))
        elif what == "erase":
            shutil.rmtree(there(path), ignore_errors=True)
    for path in after.glob(f"{NAMELESS}*"):
        path.unlink()  # without a name it is nowhere


def _folders(event: Event) -> set[Path]:
    what, path, more = event
    return {path.parent, more.parent} if what in ("rename", "replace", "link") else {path.parent}


def _content(log: list[Event], created: int, path: Path) -> bytes:
    """All that was written to the file that event `created` made."""
    written = b""
    for what, where, more in log[created + 1 :]:
        if where == path and what in ("create", "unlink", "rename", "replace"):
            break
        if where == path and what == "write":
            written += more
    return written


def flushed_bytes(log: list[Event], created: int, path: Path) -> int:
    """How many of them had been flushed."""
    written = flushed = 0
    for what, where, more in log[created + 1 :]:
        if where == path and what in ("create", "unlink", "rename", "replace"):
            break
        if where == path and what == "write":
            written += len(more)
        elif where == path and what == "flush":
            flushed = written
    return flushed


def _prepared(root: Path, persona: Make) -> Library:
    library = Library(root)
    library.save("alice", persona(word="face"))
    library.save("carol", persona(word="face"))
    return library


def _unfinished(library: Library, persona: Make) -> None:
    from pmagic.library import unfinished

    with unfinished.locked_run(library.root, "alice") as folder:
        atomic_io.replace_file(folder / "x.checkpoint", b"12345678" * 10)
        atomic_io.replace_file(folder / "x.checkpoint", b"abcdefgh" * 10)


ACTS: dict[str, Act] = {
    "save": lambda library, persona: library.save("alice", persona(word="woman")),
    "save a new name": lambda library, persona: library.save("bob", persona(word="woman")),
    "remove": lambda library, persona: library.remove("carol"),
    "rename": lambda library, persona: library.rename("carol", "dora"),
    "checkpoint": _unfinished,
    "export": lambda library, persona: atomic_io.publish_file(
        library.export("alice")[1], library.root.parent / "out.pmagic"
    ),
}


def trial(tmp_path: Path, persona: Make, act: Act, mutate: Callable[[pytest.MonkeyPatch], None]) -> list[str]:
    """The faults that were found, at every moment of the act and in some states of the disk at each."""
    home = tmp_path / "home"
    library = _prepared(home / "library", persona)
    before = shutil.copytree(home, tmp_path / "before")
    disk = Disk(home)
    with disk.watching(), pytest.MonkeyPatch.context() as patch:
        mutate(patch)
        act(library, persona)
    wrong, dice = [], random.Random(1)
    for moment in range(len(disk.log) + 1):
        for cut in range(CUTS):
            after = tmp_path / f"after-{moment}-{cut}"
            after_power_loss(before, after, home, disk.log[:moment], dice)
            done = moment == len(disk.log)
            wrong += [f"{moment}: {each}" for each in _found_wrong(Library(after / "library"), home, library, done)]
            shutil.rmtree(after)
    return wrong


def _found_wrong(found: Library, home: Path, whole: Library, done: bool) -> list[str]:
    wrong = [f"{address} is damaged" for address, about in found.summaries() if isinstance(about, Exception)]
    for address in found.addresses():
        try:
            found.load(str(address))
        except Exception as error:
            wrong.append(f"{address}: {error}")
    if not folder_of(found.root, Address("alice", 1)).is_dir():
        wrong.append("alice@1 is gone")
    checkpoint = found.root / ".unfinished" / "alice" / "x.checkpoint"
    if checkpoint.exists() and checkpoint.read_bytes() not in (b"12345678" * 10, b"abcdefgh" * 10):
        wrong.append("the checkpoint is damaged")
    exported = found.root.parent / "out.pmagic"
    if exported.exists() and exported.read_bytes() != archives.exported(whole, "alice"):
        wrong.append("the archive is damaged")
    if done:  # success was reported, so all of it is there
        if found.addresses() != whole.addresses():
            wrong.append(f"{found.addresses()} after success")
        if exported.exists() is not (home / "out.pmagic").exists():
            wrong.append("the archive is missing after success")
    return wrong


@pytest.mark.parametrize("name", list(ACTS))
def test_nothing_is_lost_or_half_there_after_a_power_loss(tmp_path: Path, persona: Make, name: str) -> None:
    assert trial(tmp_path, persona, ACTS[name], lambda patch: None) == []


@pytest.mark.parametrize("name", ["save", "checkpoint", "export"])
def test_the_mutant_that_does_not_flush_files_fails(tmp_path: Path, persona: Make, name: str) -> None:
    def mutate(patch: pytest.MonkeyPatch) -> None:
        real = os.fsync
        patch.setattr(os, "fsync", lambda each: real(each) if stat.S_ISDIR(os.fstat(each).st_mode) else None)

    assert any("damaged" in each or "SHA" in each or "first line" in each or "missing" in each
               for each in trial(tmp_path, persona, ACTS[name], mutate))  # fmt: skip


@pytest.mark.parametrize("name", ["save", "remove", "rename", "export"])
def test_the_mutant_that_does_not_flush_folders_fails(tmp_path: Path, persona: Make, name: str) -> None:
    wrong = trial(
        tmp_path, persona, ACTS[name], lambda patch: patch.setattr(atomic_io, "sync_folder", lambda path: None)
    )
    assert any("after success" in each for each in wrong)
