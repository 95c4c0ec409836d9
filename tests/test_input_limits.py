"""Input from outside costs a bounded time, and what an import accepts is what verify accepts."""

import hashlib
import io
import json
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pmagic import bounded_toml
from pmagic.errors import BundleDamaged, UsageError
from pmagic.library import archive, bundle
from pmagic.persona import Persona

PARTS = ".".join("a" * 60_000)


@pytest.mark.parametrize(
    "text",
    [
        f"{PARTS} = 1",
        f"[{PARTS}]",
        f"x = {{{PARTS} = 1}}",
        "\n".join(["x = 1", ".".join(['"a b"'] * 2000) + " = 1"]),
        ".".join(["'a'"] * 2000) + " = 1",
        "x = ['''a'b''', {" + ".".join("a" * 3000) + " = 1}] # '",
        "[" * 60_000,
        "x = " + "9" * 70_000,
        "\n".join(["a" * 65_000] * 4),
        "x = 0x" + "f" * 2000,
        "\n".join(['x = "' + '\\"' * 32_000] * 4),
        "a" + " " * 65_000,
        "x = '" + "a" * 65_000,
    ],
)
def test_toml_that_is_slow_to_parse_is_refused_at_once(text: str) -> None:
    start = time.process_time()
    with pytest.raises(
        ValueError, match=r"key has more|line has more|several lines|nested|Invalid|Expected|Illegal|number has"
    ):
        bounded_toml.loads(text.encode())
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ('name = "a.b.c.d.e.f.g.h.i.j.k"', {"name": "a.b.c.d.e.f.g.h.i.j.k"}),
        ("# it's a.b.c.d.e.f.g.h.i.j\nx = 1", {"x": 1}),
        ('x = "' + "\u2028" * 9 + '" # \u2028', {"x": "\u2028" * 9}),
        ('"a b"."".c = ""', {"a b": {"": {"c": ""}}}),
        ("a.b.c.d = 1.5", {"a": {"b": {"c": {"d": 1.5}}}}),
        ("x = 'it''s' # no", None),
        ('x = "\\"a\\" = 1"', {"x": '"a" = 1'}),
    ],
)
def test_toml_that_people_write_is_read(text: str, table: dict[str, object] | None) -> None:
    if table is None:
        with pytest.raises(ValueError):
            bounded_toml.loads(text.encode())
    else:
        assert bounded_toml.loads(text.encode()) == table


def test_a_persona_that_could_not_be_read_again_is_not_packed(persona: Callable[..., Persona]) -> None:
    longest = tuple((t, 0.5) for t in range(1000, -1, -1))
    assert bundle.unpack(bundle.pack(replace(persona(), curve=longest))).curve == longest
    for changed in (
        {"curve": (*longest, (0, 0.5))},
        {"photos": ("0" * 64,) * 1001},
        {"settings": {"recipe": "x" * 300_000}},
    ):
        with pytest.raises((BundleDamaged, UsageError)):
            bundle.pack(replace(persona(), **changed))


def test_an_archive_of_many_members_is_refused_at_once(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as written:
        for number in range(20_000):
            written.writestr(f"{number}", b"")
    path = tmp_path / "many.pmagic"
    for data in (buffer.getvalue(), buffer.getvalue()[:-12] + b"\1\0" * 2 + buffer.getvalue()[-8:]):
        path.write_bytes(data)
        start = time.process_time()
        with pytest.raises((BundleDamaged, UsageError), match=r"members|not a zip|not a persona"):
            archive.unpack(path)
        assert time.process_time() - start < 0.2


def test_a_tensor_of_more_dimensions_than_arrays_have_is_refused(persona: Callable[..., Persona]) -> None:
    files = bundle.pack(persona())
    first = next(line for line in files[bundle.TOML].decode().splitlines() if '"F32 ' in line or '"F16 ' in line)
    layout = first.partition(" = ")[2]
    many = layout.rstrip('"') + "x1" * 70 + '"'
    body = files[bundle.TOML].partition(b"\n")[2].replace(layout.encode(), many.encode())
    head = f"# pmagic persona, SHA-256 of the lines below: {hashlib.sha256(body).hexdigest()}\n".encode()
    with pytest.raises(BundleDamaged, match="tensors"):
        bundle.unpack({**files, bundle.TOML: head + body})


# The peak is that of the process's own memory: `ru_maxrss` would begin with the one of the process that starts it.
READS_AN_ARCHIVE = """
import sys, time
from pathlib import Path
from pmagic.errors import PmagicError
from pmagic.library import archive, bundle
begun = time.process_time()
try:
    bundle.unpack(archive.unpack(Path(sys.argv[1])))
    outcome = "read"
except PmagicError as problem:
    outcome = type(problem).__name__
seconds = time.process_time() - begun
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(outcome, seconds, peak)
"""


def cost_of_reading(path: Path) -> tuple[str, float, float]:
    """What a child process makes of an archive, its processor seconds, and its peak of memory in MB."""
    words = [sys.executable, "-c", READS_AN_ARCHIVE, str(path)]
    outcome, seconds, peak = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    return outcome, float(seconds), int(peak) / 1000


def hostile_archive(table: bytes, tensors: bytes) -> bytes:
    head = f"# pmagic persona, SHA-256 of the lines below: {hashlib.sha256(table).hexdigest()}\n".encode()
    return archive.pack({bundle.TOML: head + table, bundle.TENSORS: tensors})


def many_tables() -> bytes:
    """As many tables in tables as the bounds let through: each is a dictionary to the parser, and a flag's besides."""
    lines = (b"[%x.b.c.d.e.f.g.h]\n" % number for number in range(14_000))
    return hostile_archive(b"".join(lines)[: bundle.MAX_BYTES[bundle.TOML] - 200].rpartition(b"\n")[0], b"x")


def many_tensors() -> bytes:
    header = {f"a{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(16_000)}
    data = json.dumps(header).encode()
    return hostile_archive(b"", struct.pack("<Q", len(data)) + data)


def many_members() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as written:
        for number in range(12_000):
            written.writestr(f"{number:x}", b"")
    data = buffer.getvalue()
    return data[:-14] + b"\2\0\2\0" + data[-10:]  # and its end says that there are two


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_a_hostile_archive_of_a_megabyte_costs_a_second_and_200_megabytes_at_most(
    persona: Callable[..., Persona], tmp_path: Path
) -> None:
    good = tmp_path / "good.pmagic"
    good.write_bytes(archive.pack(bundle.pack(persona())))
    outcome, _, usual = cost_of_reading(good)
    assert outcome == "read"
    for make in (many_tables, many_tensors, many_members):
        path = tmp_path / f"{make.__name__}.pmagic"
        path.write_bytes(make())
        assert 250_000 < path.stat().st_size < 1_300_000
        tries = [cost_of_reading(path) for _ in range(3)]  # a machine with other work takes longer, but not always
        outcome, seconds, peak = min(tries, key=lambda each: each[1])
        assert outcome in ("BundleDamaged", "Incompatible", "UsageError"), make.__name__
        assert seconds < 1 and peak - usual < 200, (make.__name__, seconds, peak - usual)
