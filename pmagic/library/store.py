"""The collection of personas: `<library>/alice/v0003/`, each version published once and never changed.

One lock (flock, which ends with its process) guards every change. Reading needs no lock, because a version becomes
visible in one rename. Nothing depends on clocks.
"""

import contextlib
import difflib
import os
import shlex
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pmagic import atomic_io
from pmagic.errors import BundleDamaged, Busy, Incompatible, NotFound, PmagicError, StorageFailed, UsageError
from pmagic.library import archive, bundle
from pmagic.library.naming import Address, check_name, folder_of, parse, version_of
from pmagic.persona import Persona

Value = TypeVar("Value")

STAGING = ".staging"
LOCK = ".lock"
LOCK_SECONDS = 30.0  # a change takes well under a second


@dataclass(frozen=True)
class Entry:
    """One version as `list` shows it: its manifest, or why it cannot be read."""

    address: Address
    folder: Path
    manifest: bundle.Manifest | None
    problem: PmagicError | None = None


class Library:
    """The personas under one folder. Creating the object touches nothing on the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self, prefix: str = "") -> list[str]:
        """The sorted names of the personas that can be read, have a version and begin with `prefix`."""
        return sorted({each.name for each in self.addresses() if each.name.startswith(prefix)})

    def versions(self, name: str) -> list[int]:
        """The versions of a name, [] without any. Raises StorageFailed where its folder cannot be read."""
        if os.path.islink(self.root / name):
            return []  # a link is never followed: it could lead a removal or a new file elsewhere
        numbers = (version_of(each) for each in _folders(os.path.join(self.root, name)))
        return sorted(number for number in numbers if number is not None)

    def addresses(self) -> list[Address]:
        """Every version of every persona whose folder can be read; `unreadable` has the others."""
        addresses: list[Address] = []
        for name in sorted(_folders(self.root)):
            with contextlib.suppress(StorageFailed):
                addresses += [Address(name, version) for version in self.versions(name)]
        return addresses

    def unreadable(self) -> list[PmagicError]:
        """Why folders of the library are not listed: no permission, or a link in the place of a folder."""
        problems: list[PmagicError] = []
        for name in sorted(_folders(self.root)):
            try:
                self.versions(name)
            except StorageFailed as problem:
                problems.append(problem)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.root) as entries:
            problems += [
                _link_problem(Path(each.path)) for each in entries if each.name[0] != "." and each.is_symlink()
            ]
        return problems

    def entries(self) -> list[Entry]:
        """Every version of every persona; a damaged one is an entry too, and does not hide the others."""
        return [self.entry(address) for address in self.addresses()]

    def summaries(self) -> list[tuple[Address, bundle.Summary | PmagicError]]:
        """As `entries`, with only what a list shows: a thousand of them take a tenth of a second."""
        summaries = [(address, self._summary(address)) for address in self.addresses()]
        return [each for each in summaries if not isinstance(each[1], NotFound)]

    def _summary(self, address: Address) -> bundle.Summary | PmagicError:
        try:
            with self._reading(address) as folder:
                return bundle.summary(folder)
        except (BundleDamaged, Incompatible, StorageFailed, NotFound) as problem:
            return problem

    def entry(self, address: Address) -> Entry:
        folder = folder_of(self.root, address)
        try:
            with self._reading(address):
                return Entry(address, folder, bundle.read_manifest(folder))
        except (BundleDamaged, Incompatible, StorageFailed, NotFound) as problem:
            return Entry(address, folder, None, problem)

    def find(self, text: str) -> Address:
        """`alice` -> its newest version, `alice@1` -> that one; NotFound with a proposal."""
        name, version = parse(text)
        versions = self.versions(name)
        if os.path.islink(self.root / name):
            raise _link_problem(self.root / name)
        if not versions:
            known = self.names()
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else _others(known)
            raise NotFound(f"there is no persona {name!r}", hint)
        if version is not None and version not in versions:
            there = ", ".join(str(Address(name, each)) for each in versions)
            raise NotFound(f"{name!r} has no version {version}", f"there is {there}")
        return Address(name, version or versions[-1])

    def load(self, text: str) -> tuple[Address, Persona]:
        """Raises NotFound, BundleDamaged or Incompatible; a returned persona is verified."""
        return self._read(text, bundle.read)

    def verify(self, text: str) -> tuple[Address, bundle.Manifest]:
        """As `load`, without the arrays and without numpy."""
        return self._read(text, bundle.verify)

    def size(self, address: Address) -> int:
        """Bytes of a version's files. Raises NotFound where it has just been removed."""
        with self._reading(address) as folder:
            return sum(each.stat().st_size for each in folder.iterdir())

    def find_same(self, name: str, persona: Persona) -> Address | None:
        """The version of `name` that renders exactly as this persona does; None without one."""
        digest = bundle.digest(persona)
        for version in reversed(self.versions(name)):
            with contextlib.suppress(BundleDamaged, Incompatible, NotFound, StorageFailed):
                if bundle.digest(self.load(f"{name}@{version}")[1]) == digest:
                    return Address(name, version)
        return None

    def save(self, name: str, persona: Persona) -> Address:
        """Stores the persona as the next version of `name`; once this returns, it survives a loss of power.

        Raises Incompatible where the name is taken by a persona on another base, StorageFailed, Busy, NumericFailure.
        """
        name = check_name(name)
        self.require_free(name)
        files = bundle.pack(persona)
        with atomic_io.storing(f"persona {name!r}"), self._locked():
            self.require_same_base(name, persona.base, persona.fingerprint)
            address = Address(name, max(self.versions(name), default=0) + 1)
            atomic_io.make_folder(self.root / name)
            atomic_io.publish_folder(files, self.root / STAGING / "saved", folder_of(self.root, address))
            return address

    def require_free(self, name: str) -> None:
        """Refuses a name that differs from an existing one by case only: on some disks both would be one folder."""
        if os.path.islink(self.root / name):
            raise _link_problem(self.root / name)
        for known in _folders(self.root):
            if known != name and known.casefold() == name.casefold() and self.versions(known):
                raise UsageError(f"{name!r} is too close to the persona {known!r}", f"use {known!r} or another name")

    def require_same_base(self, name: str, base: str, fingerprint: str) -> None:
        """Raises Incompatible, with both bases, where `name` was learned on another base."""
        for version in reversed(self.versions(name)):
            manifest = self.entry(Address(name, version)).manifest
            if manifest is None:
                continue  # a damaged version does not state its base; the one before it may
            if manifest.fingerprint != fingerprint:
                same = " with other weights" if manifest.base == base else ""
                raise Incompatible(
                    f"{name!r} is taken: it was learned on {manifest.base}, this is {base}{same}",
                    f"use another name, such as {name}-{_plain(base)}, "
                    f"or remove it with `pmagic rm {shlex.quote(name)}`",
                    kept=f"{name!r} is unchanged",
                )
            return

    def rename(self, old: str, new: str) -> list[Address]:
        """All versions of `old` under another name; UsageError where that one is taken."""
        old, new = check_name(old), check_name(new)
        self.find(old)
        if new == old:
            raise UsageError(f"{old!r} is called so already", "give another name")
        if new.casefold() != old.casefold():
            self.require_free(new)
        with atomic_io.storing(f"the new name {new!r}"), self._locked():
            if self.versions(new):
                raise UsageError(
                    f"the name {new!r} is taken", f"remove it with `pmagic rm {shlex.quote(new)}`, or use another"
                )
            if (self.root / new).is_dir() and not (self.root / new).samefile(self.root / old):
                atomic_io.erase(self.root / new)  # an empty folder, left by a stopped process
            atomic_io.rename_new(self.root / old, self.root / new)
            with atomic_io.visible_change(f"{old!r} is called {new!r} now, but a loss of power may still undo it"):
                atomic_io.sync_folder(self.root)
            return [Address(new, version) for version in self.versions(new)]

    def copy(self, text: str, name: str) -> Address:
        """One version (the newest, if none is named) as the next version of `name`."""
        return self.save(name, self.load(text)[1])

    def export(self, text: str) -> tuple[Address, bytes]:
        """One version as an archive, once every file of it verifies; the same persona gives the same bytes."""
        address, persona = self.load(text)
        return address, archive.pack(bundle.pack(persona))  # packed again: an early version kept a path in it

    def import_archive(self, path: Path, name: str) -> Address:
        """An archive as the next version of `name`, or an existing version that is the same persona.

        Raises as `archive.unpack`, `bundle.unpack` and `save` do.
        """
        persona = bundle.unpack(archive.unpack(path))
        return self.find_same(check_name(name), persona) or self.save(name, persona)

    def remove(self, text: str) -> list[Address]:
        """Erases one version (`alice@1`) or all of a name (`alice`), with every copy that was derived from it."""
        name, version = parse(text)
        self.find(text)
        with atomic_io.storing(f"the removal of {text!r}"), self._locked():
            versions = self.versions(name)
            removals = [each for each in versions if version in (None, each)]
            whole = removals == versions
            target = self.root / name if whole else folder_of(self.root, Address(name, removals[0]))
            atomic_io.withdraw(target, self.root / STAGING / "removed")
        return [Address(name, each) for each in removals]

    def clean_staging(self) -> None:
        """Erases what a killed process has left of a change; every change does this, too."""
        if self.has_leftovers():
            with atomic_io.storing("the removal of what a killed process left"), self._locked():
                pass

    def has_leftovers(self) -> bool:
        """Whether there are files of a change that is in progress or was never completed."""
        try:
            return any((self.root / STAGING).iterdir())
        except FileNotFoundError:
            return False

    def _read(self, text: str, read: Callable[[Path], Value]) -> tuple[Address, Value]:
        """Calls `read` on a version's folder, and once more if another process removes that version meanwhile."""
        address = self.find(text)
        try:
            with self._reading(address) as folder:
                return address, read(folder)
        except NotFound:
            address = self.find(text)  # another version of the name, or NotFound
            with self._reading(address) as folder:
                return address, read(folder)

    @contextmanager
    def _reading(self, address: Address) -> Generator[Path]:
        """The version's folder; raises NotFound where the body fails because another process removes it."""
        folder = folder_of(self.root, address)
        try:
            yield folder
        except (BundleDamaged, FileNotFoundError) as error:
            if folder.is_dir():
                raise
            raise NotFound(f"{address} was removed by another process", "see `pmagic list`") from error

    @contextmanager
    def _locked(self) -> Generator[None]:
        """Holds the library's lock, and first erases what killed processes have left in staging."""
        import filelock

        atomic_io.make_folder(self.root)
        lock = filelock.FileLock(self.root / LOCK, timeout=LOCK_SECONDS, mode=atomic_io.FILE_MODE)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise Busy(
                f"another pmagic has been changing the library for {LOCK_SECONDS:.0f} seconds",
                "wait for it to end, then run the command again",
            ) from error
        try:
            if (self.root / STAGING).exists():
                atomic_io.erase(self.root / STAGING)
            yield
        finally:
            lock.release()


def _folders(path: str | Path) -> list[str]:
    """The names of the visible real folders in `path`; links are not followed."""
    try:
        with os.scandir(path) as entries:
            return [each.name for each in entries if each.name[0] != "." and each.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StorageFailed(f"{path} cannot be read: {error.strerror}", "correct its permissions") from error


def _link_problem(path: Path) -> UsageError:
    return UsageError(
        f"{path} is a link, which the library never follows", "put the folder itself there, or set PMAGIC_HOME"
    )


def _others(known: list[str]) -> str:
    return f"there is: {', '.join(known)}" if known else "learn one first: pmagic learn PHOTO --name NAME"


def _plain(base: str) -> str:
    return base.rpartition("/")[2]
