"""Arrays by name <-> safetensors bytes, read more strictly than the safetensors library itself does.

The library accepts duplicate names, control characters in names, NaN and headers of many megabytes.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Protocol, TypedDict, TypeGuard, cast

import numpy as np

from pmagic.atomic_io import Buffer
from pmagic.errors import BundleDamaged, NumericFailure
from pmagic.library.plain_values import is_list, is_table

FILE = "tensors.safetensors"
DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
MAX_HEADER = 1024 * 1024
_MAX_DIMENSIONS = 8
_AT_ONCE = 16 * 1024**2  # bytes of one read: some files copy what they give
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}")

Layout = tuple[tuple[str, str, tuple[int, ...]], ...]  # (name, dtype, shape) of each tensor, sorted by name


class Entry(TypedDict):
    """What a safetensors header says of one tensor."""

    dtype: str
    shape: list[int]
    data_offsets: list[int]  # first byte, and the one behind the last


def layout(tensors: Mapping[str, np.ndarray]) -> Layout:
    """What persona.toml states about the tensors; NumericFailure where a value is not finite."""
    rows: list[tuple[str, str, tuple[int, ...]]] = []
    for name in sorted(tensors):
        array = tensors[name]
        if array.dtype not in _CODES or not _NAME.fullmatch(name):
            raise ValueError(f"a tensor must be float32 or float16 under a plain name, not {name!r} {array.dtype}")
        if not np.isfinite(array).all():
            raise NumericFailure(f"the learned {name!r} holds NaN or infinity", "learn with a smaller --learning-rate")
        rows.append((name, _CODES[array.dtype], tuple(array.shape)))
    return tuple(rows)


def write(tensors: Mapping[str, np.ndarray]) -> bytearray:
    """A safetensors file, as the library itself lays it out; the library would hold a large one three times."""
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Entry] = {}
    end = 0
    for name in order:
        code, array = _CODES[tensors[name].dtype], tensors[name]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    start = 8 + len(head)
    data = bytearray(start + end)
    data[:8], data[8:start] = len(head).to_bytes(8, "little"), head
    for name in order:
        first = start + header[name]["data_offsets"][0]
        np.frombuffer(data, tensors[name].dtype, tensors[name].size, first)[:] = tensors[name].reshape(-1)
    return data


def read(data: Buffer, expected: Layout) -> dict[str, np.ndarray]:
    """The arrays, once header, names, dtypes and shapes are exactly as expected and all values are finite.

    Arrays of a `bytearray` share its memory, so that a large file is not held twice.
    """
    entries = _header(data)
    layouts = {name: (code, list(shape)) for name, code, shape in expected}
    if set(entries) != set(layouts):
        raise _damaged(f"its tensors are not those of persona.toml: {_some(set(entries) ^ set(layouts))}")
    arrays: dict[str, np.ndarray] = {}
    start, end = values_start(data), 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        code, shape = layouts[name]
        if entry["dtype"] != code or entry["shape"] != shape:
            raise _damaged(
                f"{name} is {entry['dtype'][:9]} {str(entry['shape'])[:80]}, persona.toml says {code} {shape}"
            )
        size = DTYPES[code].itemsize * math.prod(shape)
        if entry["data_offsets"] != [end, end + size]:
            raise _damaged(f"{name} lies at {entry['data_offsets']}, not at {[end, end + size]}")
        if start + end + size > len(data):
            raise _damaged("its length is not that of its tensors")
        arrays[name] = np.frombuffer(data, DTYPES[code], math.prod(shape), start + end).reshape(shape)
        end += size
    if start + end != len(data):
        raise _damaged("its length is not that of its tensors")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise _damaged(f"{name} holds NaN or infinity")
        if not array.flags.writeable:
            arrays[name] = array.copy()
    return arrays


def _header(data: Buffer) -> dict[str, Entry]:
    """The header's entries, each with exactly dtype, shape and data_offsets of the right types."""
    try:
        header = read_header(data, MAX_HEADER)
    except ValueError as error:
        raise _damaged(str(error)) from error
    for name, entry in header.items():
        if not _NAME.fullmatch(name) or not is_table(entry):
            raise _damaged(f"its header holds {name!r}")
        problem = entry_problem(entry)
        if problem:
            raise _damaged(f"its entry {name!r} has {problem}")
    return cast(dict[str, Entry], header)


class _Readable(Protocol):
    def readinto(self, data: memoryview, /) -> int | None: ...


def fill(file: _Readable, data: bytearray) -> int:
    """Reads into `data` until it is full or the file ends; returns the bytes read. A read may give less than asked."""
    done, view = 0, memoryview(data)
    while done < len(data):
        count = file.readinto(view[done : done + _AT_ONCE])
        if not count:
            break
        done += count
    return done


def values_start(data: Buffer) -> int:
    """The byte of a safetensors file at which its values begin."""
    return 8 + int.from_bytes(data[:8], "little")


def read_header(data: Buffer, limit: int) -> dict[str, object]:
    """The header's table as it is. Raises ValueError for a header that is cut, longer than `limit` or ambiguous."""
    length = values_start(data) - 8
    if len(data) < 8 or length > min(limit, len(data) - 8) or data[8:9] != b"{":
        raise ValueError("its header is incomplete or too long")
    try:
        return json.loads(bytes(data[8 : 8 + length]), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its header does not parse: {error}") from error


def entry_problem(entry: Mapping[str, object]) -> str:
    """What is wrong with a tensor's entry in a header, "" if nothing is."""
    if set(entry) != {"dtype", "shape", "data_offsets"} or not isinstance(entry["dtype"], str):
        return "unexpected fields"
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not (_naturals(shape) and _naturals(offsets) and len(offsets) == 2):
        return "unexpected values"
    huge = math.prod(side for side in shape if side) >= 2**48  # such an empty array cannot be made
    return "a shape that no array has" if huge or len(shape) > _MAX_DIMENSIONS else ""


def _once(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name is given twice")
    return table


def _naturals(values: object) -> TypeGuard[list[int]]:
    return is_list(values) and all(type(value) is int and 0 <= value < 2**40 for value in values)


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3])


def _damaged(why: str) -> BundleDamaged:
    return BundleDamaged(f"{FILE}: {why}", "learn the persona again, or remove it with `pmagic rm`")
