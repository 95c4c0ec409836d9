"""Bases that stay open between tasks: one for each device, in a shell or a server. Nothing else keeps a base."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pmagic.bases.loading import Base
    from pmagic.bases.model_spec import ModelSpec


@dataclass(frozen=True)
class _Kept:
    """An opened base, and what must be the same for it to be used again."""

    identity: tuple[object, ...]  # folder, number type, and the stamps of its files
    base: "Base"


_kept: dict[str, _Kept] | None = None  # by device; None where every task opens its own base
_lock = threading.Lock()


@contextmanager
def keep_open() -> Iterator[None]:
    """While inside, the base that was opened last on each device stays open for the next task."""
    global _kept
    before = _kept
    _kept = {} if before is None else before
    try:
        yield
    finally:
        _kept = before


def are_kept() -> bool:
    """Whether this process keeps bases open."""
    return _kept is not None


def close_all() -> None:
    """The next task opens its base anew, as after a task that was stopped in the middle of a step."""
    if _kept is not None:
        _kept.clear()


def open_base(spec: "ModelSpec", *, device: str, dtype: str) -> "Base":
    """The base of the spec: the kept one if nobody has changed its files since, else opened now.

    Raises as `loading.load` does.
    """
    from pmagic.bases import loading, model_spec

    if _kept is None:
        return loading.load(spec, device=device, dtype=dtype)
    model_spec.require_weights(spec)
    place = str(loading.find_device(device))
    identity = (dtype, loading.file_stamps(spec))
    with _lock:
        kept = _kept.get(place)
        if kept is not None and kept.identity == identity:
            return replace(kept.base, name=spec.title, spec=spec)  # its own defaults may have changed
        _kept.pop(place, None)
    kept = None  # closed before the next one is opened: two may be too large
    base = loading.load(spec, device=device, dtype=dtype)
    with _lock:
        _kept[place] = _Kept(identity, base)
    return base
