"""The library against a dictionary: after any operations in any order, both agree."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
from archives import exported
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from pmagic.errors import BundleDamaged, Incompatible, NotFound, UsageError
from pmagic.library import bundle
from pmagic.library.naming import Address, folder_of
from pmagic.library.store import Library
from pmagic.persona import REFERENCE_BOUNDS, Persona

NAMES = st.sampled_from(["alice", "Alice", "bob", "Zoë", "村上", "a b", "x" * 100])
WORDS = st.sampled_from(["face", "woman", "cat\x1b[31m"])
BASES = st.sampled_from(["mini", "sd14"])


def made(word: str, base: str) -> Persona:
    return Persona(
        method="personamagic",
        base=base,
        fingerprint={"mini": "a", "sd14": "c"}[base] * 64,
        word=word,
        bounds=REFERENCE_BOUNDS,
        tensors={"w": np.array([len(word)], dtype=np.float32)},
        settings={"recipe": "paper"},
    )


class LibraryIsADictionary(RuleBasedStateMachine):
    """`kept`: version -> (word, base) for each name; None stands for a version that was damaged."""

    files = Bundle("files")

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.library = Library(self.folder / "library")
        self.kept: dict[str, dict[int, tuple[str, str] | None]] = {}
        self.archives = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def taken(self, name: str) -> bool:
        return any(known != name and known.casefold() == name.casefold() for known in self.kept)

    def foreign(self, name: str, base: str) -> bool:
        whole = [each for _, each in sorted(self.kept.get(name, {}).items()) if each is not None]
        return bool(whole) and whole[-1][1] != base

    def save(self, name: str, what: tuple[str, str], act: object) -> None:
        """`act` saves `what` as the next version of `name`, or is refused for the reason that the dictionary knows."""
        try:
            address = act()
        except UsageError:
            assert self.taken(name)
        except Incompatible:
            assert self.foreign(name, what[1])
        else:
            assert not self.taken(name) and not self.foreign(name, what[1])
            versions = self.kept.setdefault(name, {})
            assert address == Address(name, max(versions, default=0) + 1)
            versions[address.version] = what

    @rule(name=NAMES, word=WORDS, base=BASES)
    def learn(self, name: str, word: str, base: str) -> None:
        self.save(name, (word, base), lambda: self.library.save(name, made(word, base)))

    @rule(name=NAMES, new=NAMES)
    def copy(self, name: str, new: str) -> None:
        newest = self.newest(name)
        if newest is None:
            return
        self.save(new, newest, lambda: self.library.copy(name, new))

    @rule(name=NAMES, new=NAMES)
    def rename(self, name: str, new: str) -> None:
        free = new not in self.kept and (new.casefold() == name.casefold() or not self.taken(new))
        try:
            self.library.rename(name, new)
        except NotFound:
            assert name not in self.kept
        except UsageError:
            assert not free
        else:
            assert free
            self.kept[new] = self.kept.pop(name)

    @rule(target=files, name=NAMES)
    def export(self, name: str) -> object:
        newest = self.newest(name)
        if newest is None:
            return multiple()
        self.archives += 1
        path = self.folder / f"{self.archives}.pmagic"
        path.write_bytes(exported(self.library, name))
        return path, newest

    @rule(file=consumes(files), name=NAMES)
    def import_archive(self, file: tuple[Path, tuple[str, str]], name: str) -> None:
        self.save(name, file[1], lambda: self.library.import_archive(file[0], name))

    @rule(name=NAMES, version=st.sampled_from([None, 1, 2]))
    def remove(self, name: str, version: int | None) -> None:
        text = name if version is None else f"{name}@{version}"
        versions = self.kept.get(name, {})
        try:
            removed = self.library.remove(text)
        except NotFound:
            assert not versions or (version is not None and version not in versions)
            return
        assert [each.version for each in removed] == ([version] if version else sorted(versions))
        for each in removed:
            del versions[each.version]
        if not versions:
            del self.kept[name]

    @rule(name=NAMES, place=st.integers(0, 10_000), file=st.sampled_from([bundle.TOML, bundle.TENSORS]))
    def damage(self, name: str, place: int, file: str) -> None:
        versions = self.kept.get(name)
        if versions and versions[max(versions)] is not None:
            path = folder_of(self.library.root, Address(name, max(versions))) / file
            data = bytearray(path.read_bytes())
            data[place % len(data)] ^= 1
            path.write_bytes(data)
            try:
                self.library.load(name)
            except BundleDamaged:
                pass
            else:
                raise AssertionError("a changed bit was not seen")
            if file == bundle.TENSORS:  # what is said of it can still be listed: mended again
                data[place % len(data)] ^= 1
                path.write_bytes(data)
            else:
                versions[max(versions)] = None

    def newest(self, name: str) -> tuple[str, str] | None:
        versions = self.kept.get(name, {})
        return versions[max(versions)] if versions else None

    @invariant()
    def both_agree(self) -> None:
        wanted = {Address(name, version): what for name, found in self.kept.items() for version, what in found.items()}
        assert self.library.addresses() == sorted(wanted)
        seen: Mapping[Address, bundle.Summary | Exception] = dict(self.library.summaries())
        for address, what in wanted.items():
            if what is None:
                assert isinstance(seen[address], BundleDamaged)
            else:
                assert (seen[address].word, seen[address].base) == what
                assert self.library.load(str(address))[1].word == what[0]


LibraryIsADictionary.TestCase.settings = settings(
    max_examples=25, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
TestLibraryIsADictionary = LibraryIsADictionary.TestCase
