"""LoRA files of other programs, as arrays: safetensors only, within bounds, and never a pickle.

Such a file comes from anywhere, so it is only data: its size, header, entries and values are checked before any use.
It does not know what the tensors mean; `engine.lora_import` does.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pmagic.errors import BundleDamaged, NotFound, UsageError
from pmagic.library.plain_values import is_table

if TYPE_CHECKING:  # the commands that know its suffixes start without numpy
    import numpy as np

    from pmagic.library.tensors import Entry

SUFFIX = ".safetensors"
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
MAX_BYTES = 2 * 1024**3  # a LoRA of rank 128 with its convolutions has 0.3 GiB in float16
MAX_HEADER = 8 * 1024**2  # programs for training write tables of all captions into it
MAX_TENSORS = 20_000
_NAME = re.compile(r"[ -~]{1,300}")
_MAX_DIMENSIONS = 4  # of a convolution's factor
_METADATA = "__metadata__"
# Types by their code in the header; bfloat16 has the upper half of float32's bits.
_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_NUMBERS = {"F64": "<f8", "I64": "<i8", "I32": "<i4"}  # some programs' alphas


@dataclass(frozen=True)
class LoraFile:
    """tensors: float32 or float16 arrays by the file's own names. metadata: the header's texts. sha256: of the file."""

    tensors: "Mapping[str, np.ndarray]"
    metadata: Mapping[str, str]
    sha256: str


def read(path: Path) -> LoraFile:
    """The file's tensors and metadata. Raises NotFound, UsageError for a pickle, BundleDamaged for a file that lies."""
    if path.suffix.lower() in PICKLES:
        raise UsageError(
            f"{path} is a pickle, which can run code when it is opened",
            "give the same LoRA as a .safetensors file; most are published in both forms",
        )
    import numpy as np

    from pmagic.library import tensors

    data = _read(path)
    try:
        header = tensors.read_header(data, MAX_HEADER)
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    metadata = header.pop(_METADATA, {})
    if not is_table(metadata) or not all(isinstance(each, str) for each in metadata.values()):
        raise _damaged(path, "its metadata are not texts")
    if not 0 < len(header) <= MAX_TENSORS:
        raise _damaged(path, f"it holds {len(header)} tensors, and 1 to {MAX_TENSORS} are read")
    arrays: dict[str, np.ndarray] = {}
    start, end = tensors.values_start(data), 0
    for name, entry in sorted(_entries(path, header).items(), key=lambda item: item[1]["data_offsets"]):
        code = (_TYPES if entry["shape"] else _TYPES | _NUMBERS).get(entry["dtype"])
        if code is None:
            raise _damaged(path, f"{name!r} is of the type {entry['dtype'][:20]}, not float32, float16 or bfloat16")
        kind, count = np.dtype(code), math.prod(entry["shape"])
        if not count or len(entry["shape"]) > _MAX_DIMENSIONS:
            raise _damaged(path, f"{name!r} has the shape {str(entry['shape'])[:80]}")
        if entry["data_offsets"] != [end, end + count * kind.itemsize] or start + entry["data_offsets"][1] > len(data):
            raise _damaged(path, f"{name!r} does not lie where its shape says")
        array = np.frombuffer(data, kind, count, start + end).reshape(entry["shape"])
        end += array.nbytes
        if entry["dtype"] == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        elif entry["dtype"] in _NUMBERS:
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise _damaged(path, f"{name!r} holds NaN or infinity")
        arrays[name] = array
    if start + end != len(data):
        raise _damaged(path, "its length is not that of its tensors")
    return LoraFile(arrays, cast(dict[str, str], metadata), hashlib.sha256(data).hexdigest())


def _read(path: Path) -> bytearray:
    from pmagic.library import tensors

    if not path.is_file():
        raise NotFound(f"there is no file {path}", "check the path of the file")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise _damaged(path, f"it is larger than {MAX_BYTES} bytes")
        data = bytearray(size)
        with path.open("rb", buffering=0) as file:
            return data[: tensors.fill(file, data)]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "check its permissions") from error


def _entries(path: Path, header: Mapping[str, object]) -> "dict[str, Entry]":
    from pmagic.library import tensors

    for name, entry in header.items():
        problem = "no table" if not is_table(entry) else tensors.entry_problem(entry)
        if problem or not _NAME.fullmatch(name):
            raise _damaged(path, f"its entry {name[:80]!r} has {problem or 'a name that is not plain text'}")
    return cast("dict[str, Entry]", header)


def _damaged(path: Path, why: str) -> BundleDamaged:
    return BundleDamaged(f"{path} cannot be used as a LoRA file: {why}", "get the file again from its source")
