"""What a probe found, kept beside a name's unfinished learnings, so that the same learning need not ask again.

Never the photo: only bounds, curve and the hash of all that decided them.
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
    """Bounds and curve of a probe. fell_back: why the bounds are the reference's, "" where they are the probe's own."""

    bounds: StageBounds
    curve: tuple[tuple[int, float], ...]  # (t, IoU), largest t first
    fell_back: str


def keep(folder: Path, inputs: Mapping[str, object], found: ProbeResult) -> None:
    """Keep it in a folder given by `unfinished.locked_run`, in place of an earlier one of the same inputs."""
    document = {"bounds": [found.bounds.low, found.bounds.high], "curve": found.curve, "fell_back": found.fell_back}
    with atomic_io.storing("what the probe found"):
        atomic_io.replace_file(_file(folder, inputs), json.dumps(document).encode())


def find(folder: Path, inputs: Mapping[str, object]) -> ProbeResult | None:
    """What was kept for exactly these inputs; None without it, or where it cannot be read: then it is found again."""
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
