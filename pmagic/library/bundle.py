"""One persona as a folder of files: persona.toml, tensors.safetensors and, where there is one, preview.png.

persona.toml's first line carries the SHA-256 of the lines below it, and those carry the SHA-256 of every other
file: a changed bit in any of them is reported, by file name, before a value is used. That line stays in every future
format; the `format` below it decides what the other lines mean.
"""

import hashlib
import math
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, TypeGuard, cast

from pmagic import bounded_toml
from pmagic.base_names import base_name
from pmagic.errors import BundleDamaged, StorageFailed, UsageError
from pmagic.library import migrations
from pmagic.library.plain_values import is_list, is_table
from pmagic.persona import MAX_TOKENS, Persona, StageBounds

FORMAT = 1
TOML, TENSORS, PREVIEW = "persona.toml", "tensors.safetensors", "preview.png"
MAX_BYTES = {TOML: 256 * 1024, TENSORS: 1024**3, PREVIEW: 8 * 1024**2}
_HEAD = re.compile(rb"# pmagic persona, SHA-256 of the lines below: ([0-9a-f]{64})\n")
MAX_POINTS = 1001  # of a curve: one for each timestep
MAX_PHOTOS = 1000
_LAYOUT = re.compile(r"F(32|16)( \d{1,9}(x\d{1,9}){0,7})?", re.ASCII)  # at most 8 dimensions
_HEX = re.compile(r"[0-9a-f]{64}")
_SUMMARY = re.compile(
    rb"""format = 1
method = "(?P<method>[a-z_]+)"
base = "(?P<base>\w[\w.-]*(/\w[\w.-]*)?)"
fingerprint = "[0-9a-f]+"
word = "(?P<word>[^"\\\n]+)"
(?:.*?\n)??\[bounds\]
low = (?P<low>\d{1,4})
high = (?P<high>\d{1,4})

\[settings\]
recipe = "(?P<recipe>\w+)"
iterations = (?P<iterations>\d{1,9})
(?:.*?\n)??seed = (?P<seed>\d{1,19})
""",
    re.DOTALL,
)
_MAX_DEPTH = 8  # tables in tables; a persona has four
_MAX_SUMMARY = 16 * 1024  # bytes at the start that hold all of this


class _Bounds(TypedDict):
    low: int
    high: int


class _Table(TypedDict):
    """The fields of persona.toml in format 1, once `_manifest` has checked them."""

    format: int
    method: str
    base: str
    fingerprint: str
    word: str
    bounds: _Bounds
    photos: list[str]
    curve: list[tuple[int, float]]  # a list of two in TOML
    tensors: dict[str, str]
    settings: dict[str, object]
    losses: dict[str, float]
    files: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What persona.toml says: everything about a persona but its arrays. Needs no numpy."""

    method: str
    base: str
    fingerprint: str
    word: str
    bounds: StageBounds
    settings: Mapping[str, object]
    losses: Mapping[str, float]
    curve: tuple[tuple[int, float], ...]
    photos: tuple[str, ...]
    tensors: tuple[tuple[str, str, tuple[int, ...]], ...]  # (name, dtype, shape)
    files: Mapping[str, str]  # SHA-256 by file name


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The few facts that `pmagic list` shows; None where persona.toml does not state one."""

    method: str
    base: str
    word: str
    bounds: StageBounds
    recipe: str | None
    iterations: int | None
    seed: int | None


def pack(persona: Persona) -> dict[str, bytes]:
    """The bundle's files by name; the same persona gives the same bytes.

    Raises UsageError or BundleDamaged for a persona that could not be read back.
    """
    import tomli_w

    from pmagic.library import tensors

    described = tensors.layout(persona.tensors)
    files = {TENSORS: tensors.write(persona.tensors)}
    if persona.preview:
        files[PREVIEW] = persona.preview
    table = {
        "format": FORMAT,
        "method": persona.method,
        "base": persona.base,
        "fingerprint": persona.fingerprint,
        "word": persona.word,
        "bounds": {"low": persona.bounds.low, "high": persona.bounds.high},
        "photos": list(persona.photos),
        "curve": [[t, float(iou)] for t, iou in persona.curve],
        "settings": dict(persona.settings),
        "losses": {name: float(value) for name, value in persona.losses.items()},
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "tensors": {name: f"{code} {'x'.join(map(str, shape))}".strip() for name, code, shape in described},
    }
    body = tomli_w.dumps(table).encode()
    head = f"# pmagic persona, SHA-256 of the lines below: {hashlib.sha256(body).hexdigest()}\n".encode()
    packed = {TOML: head + body, **files}
    for name, data in packed.items():
        if len(data) > MAX_BYTES[name]:
            raise UsageError(
                f"the persona cannot be kept: its {name} would have {len(data)} bytes, {MAX_BYTES[name]} at most",
                "learn it from fewer photos, or ask for another archive",
            )
    _parse(packed[TOML])  # a check that it can be read back
    return packed


def digest(persona: Persona) -> str:
    """SHA-256 of everything that rendering reads of a persona; its name and its files' layout do not count."""
    from pmagic.library import tensors

    bounds = persona.bounds
    total = hashlib.sha256(f"{persona.method} {persona.word} {bounds.low}:{bounds.high}\n".encode())
    for name, code, shape in tensors.layout(persona.tensors):
        total.update(f"{name} {code} {shape}\n".encode())
        total.update(persona.tensors[name].tobytes())
    return total.hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """persona.toml, verified; Incompatible for another format, BundleDamaged for anything wrong in it."""
    return _parse(_read(folder, TOML))


def summary(folder: Path) -> Summary:
    """As `read_manifest`, thirty times as fast for a persona.toml that is laid out as `pack` does it.

    The SHA-256 is compared, but the other lines are not parsed: use the values for display only.
    """
    data = _read(folder, TOML)
    match = _SUMMARY.match(_verify_lines(data)[:_MAX_SUMMARY])
    if match is not None:
        text = {name: value.decode(errors="replace") for name, value in match.groupdict().items()}
        low, high, iterations, seed = (int(text.pop(name)) for name in ("low", "high", "iterations", "seed"))
        if low < high <= 1000:
            return Summary(**text, bounds=StageBounds(low, high), iterations=iterations, seed=seed)
    about = _parse(data)
    iterations, seed = about.settings.get("iterations"), about.settings.get("seed")
    return Summary(
        method=about.method,
        base=about.base,
        word=about.word,
        bounds=about.bounds,
        recipe=cast(str, about.settings["recipe"]),  # `_settings` has checked it
        iterations=iterations if isinstance(iterations, int) else None,
        seed=seed if isinstance(seed, int) else None,
    )


def verify(folder: Path) -> Manifest:
    """Reads every file of the bundle and compares its SHA-256; needs no numpy."""
    return verify_files(files(folder))


def files(folder: Path) -> dict[str, bytes]:
    """The bundle's files by name, as `pack` gives them: persona.toml verified, the others as they are."""
    data = _read(folder, TOML)
    return {TOML: data, **{name: _read(folder, name) for name in _parse(data).files}}


def verify_files(files: Mapping[str, bytes]) -> Manifest:
    """What persona.toml says, once every file it names is there and has its SHA-256."""
    if TOML not in files:
        raise _damaged(TOML, "it is missing")
    manifest = _parse(files[TOML])
    for name, digest in manifest.files.items():
        if name not in files:
            raise _damaged(name, "it is missing")
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise _damaged(name, "its SHA-256 does not agree: it was changed or cut")
    return manifest


def read(folder: Path) -> Persona:
    """The persona, once every file of it verifies."""
    return unpack(files(folder))


def unpack(files: Mapping[str, bytes]) -> Persona:
    """The opposite of `pack`: the persona, once every file of it verifies."""
    from pmagic.library import tensors

    manifest = verify_files(files)
    return Persona(
        method=manifest.method,
        base=manifest.base,
        fingerprint=manifest.fingerprint,
        word=manifest.word,
        bounds=manifest.bounds,
        tensors=tensors.read(files[TENSORS], manifest.tensors),
        settings=manifest.settings,
        losses=manifest.losses,
        curve=manifest.curve,
        photos=manifest.photos,
        preview=files.get(PREVIEW, b"") if PREVIEW in manifest.files else b"",
    )


def _verify_lines(data: bytes) -> bytes:
    """The lines below persona.toml's first one, which holds their SHA-256."""
    head = _HEAD.match(data)
    if head is None:
        raise _damaged(TOML, "its first line is not a persona's")
    body = data[head.end() :]
    if hashlib.sha256(body).hexdigest() != head[1].decode():
        raise _damaged(TOML, "its SHA-256 does not agree: it was changed or cut")
    return body


def _parse(data: bytes) -> Manifest:
    body = _verify_lines(data)
    try:
        table = bounded_toml.loads(body)
    except ValueError as error:
        raise _damaged(TOML, f"it does not parse: {error}") from error
    if not _plain(table, _MAX_DEPTH):
        raise _damaged(TOML, "it holds a value that is not plain, not finite, or nested too deeply")
    return _manifest(migrations.migrate(table, FORMAT))


def _read(folder: Path, name: str) -> bytes:
    """Reads one regular file of the bundle; refuses a link and a file above its size limit."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(os.path.join(folder, name), flags)
    except FileNotFoundError as error:
        raise _damaged(name, f"it is missing from {folder}") from error
    except PermissionError as error:
        raise StorageFailed(
            f"{os.path.join(folder, name)} cannot be read: {error.strerror}", "correct the permissions of its folder"
        ) from error
    except OSError as error:
        raise _damaged(name, f"it cannot be opened: {error.strerror}") from error
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode) or state.st_size > MAX_BYTES[name]:
            raise _damaged(name, f"it is not a file of at most {MAX_BYTES[name]} bytes")
        return _read_all(descriptor, state.st_size)
    except OSError as error:
        raise _damaged(name, f"it cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _read_all(descriptor: int, size: int) -> bytes:
    """Up to `size` bytes; a read may give less than it was asked for."""
    parts: list[bytes] = []
    while part := os.read(descriptor, size):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _manifest(table: Mapping[str, object]) -> Manifest:
    """Checks every field of format 1; a table that verifies by hash may still have been written by somebody hostile."""
    fields: dict[str, Callable[[object], object]] = {
        "format": lambda v: v == FORMAT,
        "method": lambda v: _text(v) and v.isidentifier(),
        "base": lambda v: _text(v) and base_name(v),
        "fingerprint": _text,
        "word": _text,
        "bounds": _bounds,
        "photos": lambda v: _list(v, lambda h: isinstance(h, str) and _HEX.fullmatch(h), MAX_PHOTOS),
        "curve": lambda v: _list(v, _point, MAX_POINTS),
        "tensors": lambda v: is_table(v) and all(_text(each) and _LAYOUT.fullmatch(each) for each in v.values()),
        "settings": _settings,
        "losses": lambda v: is_table(v) and all(type(x) is float for x in v.values()),
        "files": lambda v: is_table(v) and TENSORS in v and set(v) <= {TENSORS, PREVIEW},
    }
    if set(table) != set(fields):
        raise _damaged(TOML, f"its fields differ: {', '.join(sorted(set(table) ^ set(fields)))}")
    for name, holds in fields.items():
        if not holds(table[name]):
            raise _damaged(TOML, f"its {name} cannot be {str(table[name])[:80]!r}")
    known = cast(_Table, table)
    if not all(_text(digest) and _HEX.fullmatch(digest) for digest in known["files"].values()):
        raise _damaged(TOML, "its files are not SHA-256 sums")
    return Manifest(
        method=known["method"],
        base=base_name(known["base"]),  # an early pmagic kept a folder's whole path
        fingerprint=known["fingerprint"],
        word=known["word"],
        bounds=StageBounds(**known["bounds"]),
        settings=known["settings"],
        losses=known["losses"],
        curve=tuple((t, iou) for t, iou in known["curve"]),
        photos=tuple(known["photos"]),
        tensors=tuple((name, *_layout(text)) for name, text in sorted(known["tensors"].items())),
        files=known["files"],
    )


def _text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= 1000


def _plain(value: object, depth: int) -> bool:
    """Text, truth, finite numbers, and lists and tables of these, at most `depth` in one another."""
    if is_table(value):
        return depth > 0 and all(_plain(each, depth - 1) for each in value.values())
    if is_list(value):
        return depth > 0 and all(_plain(each, depth - 1) for each in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | bool) or (type(value) is int and -(2**63) <= value < 2**63)


def _settings(value: object) -> bool:
    """What drawing reads of them is as it must be; early personas do not say their tokens."""
    if not is_table(value) or not isinstance(value.get("recipe"), str):
        return False
    tokens = value.get("tokens", 1)
    return type(tokens) is int and 1 <= tokens <= MAX_TOKENS


def _list(values: object, holds: Callable[[object], object], longest: int) -> bool:
    return is_list(values) and len(values) <= longest and all(holds(value) for value in values)


def _point(value: object) -> bool:
    return is_list(value) and [type(part) for part in value] == [int, float]


def _bounds(value: object) -> bool:
    if not is_table(value) or set(value) != {"low", "high"}:
        return False
    low, high = value["low"], value["high"]
    return type(low) is int and type(high) is int and 0 <= low < high <= 1000


def _layout(text: str) -> tuple[str, tuple[int, ...]]:
    """`F32 128x200` -> ("F32", (128, 200)); `F32` alone is a single number."""
    code, _, sides = text.partition(" ")
    return code, tuple(int(side) for side in sides.split("x") if side)


def _damaged(name: str, why: str) -> BundleDamaged:
    return BundleDamaged(f"{name}: {why}", "learn the persona again, or remove it with `pmagic rm`")
