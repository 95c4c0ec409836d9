"""Probe results, kept beside a name's unfinished runs, so that the same run need not probe again.

Only bounds, curve and a hash of the inputs are kept, never the photo.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pmagic import atomic_io
from pmagic.persona import StageBounds

SUFFIX = ".probe"


@dataclass(frozen=True)
class ProbeResult:
    """Bounds and curve of a probe.

    fallback_reason: why the bounds are the reference's, "" where they are the probe's own.
    """

    bounds: StageBounds
    curve: tuple[tuple[int, float], ...]  # (t, IoU), largest t first
    fallback_reason: str


def keep(folder: Path, inputs: Mapping[str, object], result: ProbeResult) -> None:
    """Writes the result into a folder given by `unfinished.locked_run`, in place of one of the same inputs."""
    document = {
        "bounds": [result.bounds.low, result.bounds.high],
        "curve": result.curve,
        "fell_back": result.fallback_reason,
    }
    with atomic_io.storing("the probe's result"):
        atomic_io.replace_file(_file(folder, inputs), json.dumps(document).encode())


def find(folder: Path, inputs: Mapping[str, object]) -> ProbeResult | None:
    """The result kept for exactly these inputs; None without one, or where it cannot be read."""
    try:
        document = json.loads(_file(folder, inputs).read_bytes())
        low, high = document["bounds"]
        curve = tuple((int(t), float(iou)) for t, iou in document["curve"])
        return ProbeResult(StageBounds(int(low), int(high)), curve, str(document["fell_back"]))
    except (OSError, ValueError, OverflowError, RecursionError, KeyError, TypeError):
        return None


def _file(folder: Path, inputs: Mapping[str, object]) -> Path:
    digest = hashlib.sha256(json.dumps(dict(inputs), sort_keys=True, default=str).encode()).hexdigest()
    return folder / f"{digest[:32]}{SUFFIX}"
