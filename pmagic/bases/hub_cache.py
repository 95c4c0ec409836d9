"""Finds models that another program has left in the hub's own cache. It reads the cache, and never writes to it."""

import os
import re
from pathlib import Path

from pmagic.bases import kinds
from pmagic.errors import Incompatible

_COMMIT = re.compile(r"[0-9a-f]{40}")


def find_base(repo: str) -> Path | None:
    """The newest cached snapshot of a base, if all of its parts are there."""
    folder = _snapshot(repo)
    try:
        if folder is None or kinds.lacks_of(folder, (architecture := kinds.architecture_of(folder)).parts):
            return None
    except Incompatible:
        return None
    configurations = [*(f"{part}/config.json" for part in architecture.parts), "scheduler/scheduler_config.json"]
    whole = all((folder / name).is_file() for name in configurations)
    return folder if whole and all(_has_words(folder / each) for each in architecture.tokenizers) else None


def find_observer(repo: str) -> Path | None:
    """The newest cached snapshot of a CLIP or CLIPSeg, if its weights, words and configurations are there."""
    folder = _snapshot(repo)
    names = ("model.safetensors", "config.json", "preprocessor_config.json")
    if folder is None or not all((folder / name).is_file() for name in names) or not _has_words(folder):
        return None
    return folder


def _snapshot(repo: str) -> Path | None:
    folder = _place() / f"models--{repo.replace('/', '--')}"
    try:
        commit = (folder / "refs" / "main").read_text().strip()
    except (OSError, ValueError):
        return None
    snapshot = folder / "snapshots" / commit
    return snapshot if _COMMIT.fullmatch(commit) and snapshot.is_dir() else None


def _has_words(folder: Path) -> bool:
    return (folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file()


def _place() -> Path:
    """Where the hub's client keeps its cache, by the variables that it obeys; the client itself is slow to import."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return Path(os.environ[name]).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    return Path(home).expanduser() / "hub"
