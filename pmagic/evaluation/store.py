"""The store: one folder per evaluation. Each result in it is complete; a missing result has still to be computed.

    plan.json                              all that determines the results
    people/0001-<photos>/<probe>/          the probe's curve
    people/0001-<photos>/<persona>/persona the persona, as the library keeps it
    people/0001-<photos>/<persona>/<drawing>-03/  the pictures of prompt 3 and their scores
    people/0001-<photos>/variants/<key>/   the persona and the drawing of a variant, for this subject

Two variants with the same settings for a subject share persona and pictures. A result is written to a staging folder
and renamed, so a killed run loses only the work in progress. times.csv holds the durations; no result depends on it.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pmagic import atomic_io
from pmagic.errors import Busy, Incompatible, UsageError

PLAN, TIMES, CELL, PERSONA = "plan.json", "times.csv", "cell.json", "persona"
_CELL_NAME = re.compile(r"[0-9a-f]{8}-\d{2,}")

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Result:
    """One finished result of a subject. place: its path in the subject's folder. seconds: its duration."""

    place: str
    files: Files
    seconds: float

    @property
    def lasting(self) -> dict[str, bytes]:
        """The files that later work reads again. Of a cell only the scores: the pictures would fill the memory."""
        return {CELL: self.files[CELL]} if CELL in self.files else dict(self.files)


class Store:
    """An open store; use `open_store` to get one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._aside = root / ".aside"

    @property
    def unfinished(self) -> Path:
        """The folder for checkpoints of unfinished learning runs."""
        return self.root / ".unfinished"

    def keep(self, person: str, result: Result) -> None:
        """Write a result durably to the disk. An existing result is not replaced. Raises StorageFailed."""
        target = self.root / "people" / person / result.place
        if target.is_dir():
            return
        staging = self._aside / f"{person}-{result.place.replace('/', '-')}"
        with atomic_io.storing(f"the evaluation in {self.root}"):
            atomic_io.make_folder(target.parent)
            if staging.exists():
                atomic_io.erase(staging)
            atomic_io.publish_folder(result.files, staging, target)
            with open(self.root / TIMES, "a", opener=partial(os.open, mode=atomic_io.FILE_MODE)) as file:
                file.write(f"{person},{result.place},{result.seconds:.2f}\n")

    def read(self, person: str, *, weights: bool = True) -> dict[str, dict[str, bytes]]:
        """A subject's stored files by place; of a cell only the scores are read. weights: whether to read personas."""
        folder = self.root / "people" / person
        places = sorted({each.parent for each in folder.rglob("*") if each.is_file()})
        found = {}
        for place in places:
            if place.name == PERSONA and not weights:
                continue
            files = [place / CELL] if _CELL_NAME.fullmatch(place.name) else sorted(place.iterdir())
            found[place.relative_to(folder).as_posix()] = {each.name: each.read_bytes() for each in files}
        return found

    def picture(self, person: str, place: str, k: int) -> Path:
        return self.root / "people" / person / place / picture_name(k)

    def write(self, name: str, data: bytes) -> Path:
        """Write a file of the final report; an existing one is replaced atomically."""
        path = self.root / name
        with atomic_io.storing(str(path)):
            atomic_io.make_folder(self._aside)
            staging = self._aside / name
            staging.unlink(missing_ok=True)
            atomic_io.write_file(staging, data)
            staging.replace(path)
            atomic_io.sync_folder(path.parent)
        return path


def picture_name(k: int) -> str:
    return f"{k}.png"


@contextmanager
def open_store(root: Path, plan: Mapping[str, Any]) -> Iterator[Store]:
    """Open the store in `root`, which is new or has exactly this plan, and lock it.

    Raises UsageError (`root` holds something else), Incompatible (another plan), Busy (locked), StorageFailed.
    """
    import filelock

    store = Store(root)
    check(root, plan)
    with atomic_io.storing(f"the evaluation in {root}"):
        atomic_io.make_folder(root)
        lock = filelock.FileLock(root / ".lock", timeout=0, mode=atomic_io.FILE_MODE)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise Busy(f"another pmagic works in {root}", "wait for it to end, or give another --out") from error
    try:
        if (root / PLAN).exists():
            _require_same(root, plan)  # checked again under the lock: another process may have written a plan
        else:
            store.write(PLAN, as_json(plan))
        shutil.rmtree(root / ".aside", ignore_errors=True)
        with atomic_io.storing(f"the evaluation in {root}"):
            atomic_io.make_folder(root / "people")
            atomic_io.make_folder(store.unfinished)
        yield store
    finally:
        lock.release()


def check(root: Path, plan: Mapping[str, Any]) -> None:
    """Check that a run with this plan can use `root`; nothing is written. Raises UsageError or Incompatible."""
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is not a folder", "give another --out")
    if (root / PLAN).exists():
        _require_same(root, plan)
    elif root.is_dir() and _holds_something(root):
        raise UsageError(f"{root} holds something, and no evaluation", "give --out an empty or a new folder")


def as_json(document: object) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def _holds_something(root: Path) -> bool:
    """Whether `root` holds more than a run leaves that was killed before it wrote its plan."""
    return any(each.name not in (".lock", ".aside") for each in root.iterdir())


def _require_same(root: Path, plan: Mapping[str, Any]) -> None:
    try:
        before = dict(json.loads((root / PLAN).read_text()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise Incompatible(f"{root / PLAN} cannot be read: {error}", "give another --out") from error
    now = json.loads(as_json(plan))
    differs = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if differs:
        raise Incompatible(
            f"{root} holds another evaluation: it differs in {', '.join(differs)}",
            "give another --out, or the same options as before",
        )
