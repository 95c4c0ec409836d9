"""Bundles that were changed, cut or written by somebody hostile: found by file name before any value is used."""

import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from archives import exported

from pmagic.errors import BundleDamaged, Incompatible
from pmagic.library import bundle, tensors
from pmagic.library.store import Library
from pmagic.persona import Persona

Make = Callable[..., Persona]


@pytest.fixture
def folder(tmp_path: Path, persona: Make) -> Path:
    """A small good bundle on disk."""
    small = persona(tensors={"w": np.array([1.0, 2.0], dtype=np.float32)}, preview=b"PNG")
    path = tmp_path / "bundle"
    path.mkdir()
    for name, data in bundle.pack(small).items():
        (path / name).write_bytes(data)
    return path


def test_the_same_persona_gives_the_same_bytes(persona: Make) -> None:
    assert bundle.pack(persona()) == bundle.pack(persona())


def test_nothing_but_toml_safetensors_and_preview_is_written(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["persona.toml", "preview.png", "tensors.safetensors"]


def test_every_changed_bit_is_found_by_file_name(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        with path.open("r+b", buffering=0) as file:
            for position, value in enumerate(data):
                for bit in range(8):
                    os.pwrite(file.fileno(), bytes([value ^ 1 << bit]), position)
                    with pytest.raises(BundleDamaged, match=path.name):
                        bundle.read(folder)
                os.pwrite(file.fileno(), bytes([value]), position)
    bundle.read(folder)


def test_every_cut_is_found(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        for length in range(len(data)):
            path.write_bytes(data[:length])
            with pytest.raises(BundleDamaged, match=path.name):
                bundle.read(folder)
        path.write_bytes(data)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "preview.png").unlink()
    with pytest.raises(BundleDamaged, match=r"preview\.png: it is missing"):
        bundle.verify(folder)


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (
            b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
            8,
        ),
        (b'{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}', 12),
        (b'{"w":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}', 8),
        (b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}', 12),
        (
            b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"x":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}',
            12,
        ),
        (b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 9),
        (b'  {"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8),
        (b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1}}', 8),
        (b'{"w":{"dtype":"F32","shape":[true,2],"data_offsets":[0,8]}}', 8),
        (b"[" * 5000, 8),
        (b"{}", 8),
    ],
)
def test_hostile_safetensors_are_refused_even_when_the_hashes_agree(folder: Path, header: bytes, data: int) -> None:
    _replace(folder, "tensors.safetensors", struct.pack("<Q", len(header)) + header + bytes(data))
    with pytest.raises(BundleDamaged, match=r"tensors\.safetensors"):
        bundle.read(folder)


def test_a_header_longer_than_the_file_is_refused(folder: Path) -> None:
    _replace(folder, "tensors.safetensors", struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(BundleDamaged, match="too long"):
        bundle.read(folder)


def test_values_that_are_not_finite_are_refused(folder: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    _replace(
        folder, "tensors.safetensors", struct.pack("<Q", len(header)) + header + struct.pack("<ff", 1.0, float("nan"))
    )
    with pytest.raises(BundleDamaged, match="NaN"):
        bundle.read(folder)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('method = "personamagic"', 'method = "../../evil"'),
        ("low = 400", "low = 900"),
        ("low = 400", "low = true"),
        ('word = "face"', 'word = ""'),
        ('fingerprint = "', 'extra = 1\nfingerprint = "'),
        ('"preview.png"', '"../preview.png"'),
        ('w = "F32 2"', 'w = "F64 2"'),
        ("masked_mse = 0.25", 'masked_mse = "much"'),
        ("masked_mse = 0.25", "masked_mse = nan"),
        ('recipe = "reference"', "more = 1"),
        ('recipe = "reference"', "recipe = 3"),
        ("iterations = 7", 'tokens = "x"'),
        ("iterations = 7", "tokens = true"),
        ("iterations = 7", "tokens = 0"),
        ("iterations = 7", "tokens = 1_000_000_000"),
        ("iterations = 7", "seed = nan"),
        ("iterations = 7", f"seed = 0x{'f' * 5000}"),
        ("iterations = 7", "learned = 1979-05-27"),
        ("iterations = 7", f"{'.'.join('a' * 1500)} = 1"),
        ("iterations = 7", f"a = {'[' * 50}{']' * 50}"),
        ("format = 1", f"format = 0x{'f' * 5000}"),
        ('base = "mini"', 'base = ".."'),
        ('base = "mini"', 'base = "../../etc"'),
        ('base = "mini"', 'base = "a/b/c"'),
        ('base = "mini"', 'base = "~nosuchuser"'),
        ('base = "mini"', 'base = "~/models"'),
        ('base = "mini"', 'base = "/"'),
        ('base = "mini"', 'base = "/models/.."'),
        ('base = "mini"', 'base = "mi\\u001bni"'),
    ],
)
def test_a_manifest_with_agreeing_hash_but_wrong_fields_is_refused(folder: Path, old: str, new: str) -> None:
    _rewrite(folder, old, new)
    with pytest.raises(BundleDamaged, match=r"persona\.toml"):
        bundle.read(folder)


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ("mini", "mini"),
        ("owner/repo-1.0", "owner/repo-1.0"),
        ("my base (ü)", "my base (ü)"),
        ("/home/alice/models/base", "base"),
        ("/base", "base"),
        (r"C:\Users\alice\models\base", "base"),
    ],
)
def test_of_a_folder_only_the_last_name_is_read(library: Library, persona: Make, kept: str, said: str) -> None:
    """Early bundles hold a whole path, and so may a stranger's: it is neither opened nor shown nor handed on."""
    library.save("alice", persona(base=kept))
    folder = library.root / "alice" / "v0001"
    assert bundle.read(folder).base == bundle.summary(folder).base == said
    data = exported(library, "alice")
    assert (kept.encode() in data) is (kept == said)


def test_another_format_is_incompatible_not_damaged(folder: Path) -> None:
    _rewrite(folder, "format = 1", "format = 3")
    with pytest.raises(Incompatible, match="bundle format 3, this pmagic reads 1 to 2"):
        bundle.read(folder)


def test_strict_reading_accepts_what_is_written(persona: Make) -> None:
    made = persona(
        tensors={"a": np.array(3, np.float32), "b": np.zeros((0, 4), np.float16), "c": np.ones((2, 1, 3), "f4")}
    )
    read = tensors.read(tensors.write(made.tensors), tensors.layout(made.tensors))
    assert {name: array.shape for name, array in read.items()} == {"a": (), "b": (0, 4), "c": (2, 1, 3)}


def _rewrite(folder: Path, old: str, new: str) -> None:
    """Changes persona.toml and makes its own hash agree, as somebody hostile would."""
    text = (folder / "persona.toml").read_bytes().partition(b"\n")[2].decode()
    assert old in text
    body = text.replace(old, new, 1).encode()
    head = f"# pmagic persona, SHA-256 of the lines below: {hashlib.sha256(body).hexdigest()}\n".encode()
    (folder / "persona.toml").write_bytes(head + body)


def _replace(folder: Path, name: str, data: bytes) -> None:
    """Puts other bytes in a file and makes every hash agree."""
    old = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / name).write_bytes(data)
    _rewrite(folder, old, hashlib.sha256(data).hexdigest())
