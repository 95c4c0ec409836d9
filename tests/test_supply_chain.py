"""What pmagic is installed with: every version is locked with its SHA-256, and the lock names no server."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(
    not (ROOT / "requirements.lock").is_file(), reason="the tests run outside of a checkout"
)
_PINNED = re.compile(r"([a-z0-9][a-z0-9-]*)==(\S+)( ; [^\\]+)? \\")


def locked() -> dict[str, tuple[str, list[str]]]:
    """(version, SHA-256 sums) by name; every line of the lock must be one of a few kinds."""
    found: dict[str, tuple[str, list[str]]] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line.startswith("#"):
            continue
        if pinned := _PINNED.fullmatch(line):
            sums: list[str] = []
            found[pinned[1]] = (pinned[2], sums)
        else:
            digest = re.fullmatch(r"    --hash=sha256:([0-9a-f]{64})( \\)?", line)
            assert digest, line  # neither an address nor an option of an installer
            sums.append(digest[1])
    return found


def test_the_lock_has_every_dependency_in_a_version_that_is_asked_for() -> None:
    lock = locked()
    for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        wanted = Requirement(text)
        version, sums = lock[wanted.name.lower().replace("_", "-")]
        assert wanted.specifier.contains(version), f"{text}, but {version} is locked: run `make lock`"
        assert sums


def test_every_locked_version_has_its_sums() -> None:
    lock = locked()
    assert len(lock) > 50
    assert [name for name, (_, sums) in lock.items() if not sums] == []


def test_the_lock_agrees_with_the_versions_that_the_tests_install() -> None:
    if not (ROOT / "constraints.txt").is_file():
        pytest.skip("no constraints.txt")
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    tested = {name.lower().replace("_", "-"): version for name, _, version in (line.partition("==") for line in lines)}
    differ = {name: (version, tested[name]) for name, (version, _) in locked().items() if name in tested}
    assert {name: pair for name, pair in differ.items() if pair[0] != pair[1]} == {}, "run `make lock`"
