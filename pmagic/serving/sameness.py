"""What decides a picture's bits besides its request: code, libraries, processor cores, and variables of torch.

A command lets a server draw only where all of this is the same in both processes.
"""

import hashlib
import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pmagic

_LIBRARIES = ("torch", "diffusers", "transformers", "tokenizers", "numpy", "pillow")
_PREFIXES = (
    "OMP_",
    "KMP_",
    "MKL_",
    "ONEDNN_",
    "DNNL_",
    "ATEN_",
    "TORCH",
    "PYTORCH",
    "CUDA",
    "CUBLAS",
    "CUDNN",
    "NVIDIA_",
)
_WITHOUT_EFFECT = {"OMP_WAIT_POLICY"}  # on the bits


def environment() -> dict[str, str]:
    """By name, as a message can call it. Imports none of the libraries."""
    found = {f"the version of {name}": _version(name) for name in _LIBRARIES}
    found["the version of Python"] = f"{platform.python_version()} in {sys.prefix}"
    found["pmagic itself"] = f"{pmagic.__version__} {_code_stamp()}"
    if hasattr(os, "sched_getaffinity"):
        found["the processor cores"] = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    for name in sorted(os.environ):
        if name.startswith(_PREFIXES) and name not in _WITHOUT_EFFECT:
            found[name] = os.environ[name]
    return found


def find_difference(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """The name of the first thing that differs between two processes; "" where nothing does."""
    return next((name for name in sorted({*here, *there}) if here.get(name) != there.get(name)), "")


def _code_stamp() -> str:
    """Changes when a source file of the package changes, as after an upgrade or an edit."""
    root = Path(pmagic.__file__).parent
    total = hashlib.sha256(str(root).encode(errors="surrogateescape"))
    for folder, names, files in os.walk(root):
        names.sort()
        for name in sorted(files):
            if name.endswith(".py"):
                about = os.stat(os.path.join(folder, name))
                total.update(f"{name} {about.st_size} {about.st_mtime_ns}\n".encode())
    return total.hexdigest()[:16]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
