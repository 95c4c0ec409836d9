"""What a persona may be called, and how a text on the command line addresses one version: `alice` or `alice@2`."""

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from pmagic.errors import UsageError

MAX_BYTES = 100  # of UTF-8; leaves room for suffixes on every file system
_FORBIDDEN = set('/\\@<>:"|?*{}')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # names Windows cannot make


@dataclass(frozen=True, order=True)
class Address:
    """One version of one persona; versions start at 1."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


def folder_of(root: Path, address: Address) -> Path:
    return root / address.name / f"v{address.version:04d}"


def version_of(folder_name: str) -> int | None:
    """The number of a version folder's name, None for every other name."""
    match = re.fullmatch(r"v(\d{4,9})", folder_name, re.ASCII)
    return int(match[1]) if match and folder_name == f"v{int(match[1]):04d}" and int(match[1]) > 0 else None


def check_name(text: str) -> str:
    """The name in Unicode's composed form; UsageError says what is wrong with it."""
    name = unicodedata.normalize("NFC", text)
    if why := _objection(name):
        raise UsageError(f"{text!r} cannot be a persona's name: {why}", "use letters, digits, - or _, as in alice-2")
    return name


def parse(text: str) -> tuple[str, int | None]:
    """`alice` -> ("alice", None); `alice@2` -> ("alice", 2)."""
    name, at, version = text.partition("@")
    if not at:
        return check_name(name), None
    if not re.fullmatch(r"[1-9]\d{0,8}", version, re.ASCII):
        raise UsageError(f"{text!r} does not address a version", "write it as in alice@1")
    return check_name(name), int(version)


def _objection(name: str) -> str:
    if not name:
        return "it is empty"
    if len(name.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        return f"it is longer than {MAX_BYTES} bytes"
    if name[0] in ".-":
        return f"it starts with {name[0]!r}"
    if name != name.strip() or name.endswith("."):
        return "it starts or ends with a blank or a dot"
    for character in name:
        if character in _FORBIDDEN:
            return f"it contains {character!r}"
        if unicodedata.category(character)[0] == "C" or unicodedata.category(character) in ("Zl", "Zp"):
            return f"it contains the control character U+{ord(character):04X}"
    if _RESERVED.fullmatch(name):
        return "Windows reserves it"
    return ""
