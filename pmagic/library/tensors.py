"""Arrays by name <-> safetensors bytes, read more strictly than the safetensors library itself does.

The library accepts duplicate names, control characters in names, NaN and headers of many megabytes.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import TypedDict, TypeGuard, cast

import numpy as np
import safetensors.numpy

from pmagic.errors import BundleDamaged, NumericFailure
from pmagic.library.plain_values import is_list, is_table

FILE = "tensors.safetensors"
DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
MAX_HEADER = 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}")

Layout = tuple[tuple[str, str, tuple[int, ...]], ...]  # (name, dtype, shape) of each tensor, sorted by name


class _Entry(TypedDict):
    """What a safetensors header says of one tensor."""

    dtype: str
    shape: list[int]
    data_offsets: list[int]  # first byte, and the one behind the last


def layout(tensors: Mapping[str, np.ndarray]) -> Layout:
    """What persona.toml states about the tensors; NumericFailure where a value is not finite."""
    codes = {dtype: code for code, dtype in DTYPES.items()}
    rows: list[tuple[str, str, tuple[int, ...]]] = []
    for name in sorted(tensors):
        array = tensors[name]
        if array.dtype not in codes or not _NAME.fullmatch(name):
            raise ValueError(f"a tensor must be float32 or float16 under a plain name, not {name!r} {array.dtype}")
        if not np.isfinite(array).all():
            raise NumericFailure(f"the learned {name!r} holds NaN or infinity", "learn with a smaller --learning-rate")
        rows.append((name, codes[array.dtype], tuple(array.shape)))
    return tuple(rows)


def write(tensors: Mapping[str, np.ndarray]) -> bytes:
    return safetensors.numpy.save({name: np.array(array, order="C") for name, array in sorted(tensors.items())})


def read(data: bytes, expected: Layout) -> dict[str, np.ndarray]:
    """The arrays, once header, names, dtypes and shapes are exactly as expected and all values are finite."""
    entries = _header(data)
    layouts = {name: (code, list(shape)) for name, code, shape in expected}
    if set(entries) != set(layouts):
        raise _damaged(f"its tensors are not those of persona.toml: {_some(set(entries) ^ set(layouts))}")
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        code, shape = layouts[name]
        if entry["dtype"] != code or entry["shape"] != shape:
            raise _damaged(
                f"{name} is {entry['dtype'][:9]} {str(entry['shape'])[:80]}, persona.toml says {code} {shape}"
            )
        size = DTYPES[code].itemsize
        for side in shape:
            size *= side
        if entry["data_offsets"] != [end, end + size]:
            raise _damaged(f"{name} lies at {entry['data_offsets']}, not at {[end, end + size]}")
        end += size
    if 8 + int.from_bytes(data[:8], "little") + end != len(data):
        raise _damaged("its length is not that of its tensors")
    arrays = safetensors.numpy.load(data)
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise _damaged(f"{name} holds NaN or infinity")
    return arrays


def _header(data: bytes) -> dict[str, _Entry]:
    """The header's entries, each with exactly dtype, shape and data_offsets of the right types."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(MAX_HEADER, len(data) - 8) or data[8:9] != b"{":
        raise _damaged("its header is incomplete or too long")
    try:
        header: dict[str, object] = json.loads(data[8 : 8 + length], object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _damaged(f"its header does not parse: {error}") from error
    for name, entry in header.items():
        if not _NAME.fullmatch(name) or not is_table(entry):
            raise _damaged(f"its header holds {name!r}")
        if set(entry) != {"dtype", "shape", "data_offsets"} or not isinstance(entry["dtype"], str):
            raise _damaged(f"its entry {name!r} has unexpected fields")
        shape, offsets = entry["shape"], entry["data_offsets"]
        if not (_naturals(shape) and _naturals(offsets) and len(offsets) == 2):
            raise _damaged(f"its entry {name!r} has unexpected values")
    return cast(dict[str, _Entry], header)


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
