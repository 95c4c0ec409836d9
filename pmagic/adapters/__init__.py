"""Adapters: what a base draws with besides a persona. The contract of a file on this shelf (read ip_adapter first):

READS: str          what it reads, in one line
SOURCE: str         whose idea it is, and where pmagic's code for it comes from, in one line
recognizes(shapes) -> bool
                    whether a safetensors file with tensors of these names and shapes is of this kind
encode(base, files, pictures) -> Mapping[str, Look]
                    what the base's cross-attentions read of the pictures, for each name; pictures: by the name in the
                    prompt's braces, one or more of the same person. Raises Incompatible for files of another base or
                    with another image encoder, before an encoder is opened
apply(base, looks, scale, *, guided, regions) context manager: while inside, the base draws with the looks. guided: with
                    guidance, so that the first half of each batch is unconditional. regions: by name, the place in
                    which a look is read; empty for everywhere. On exit the base is restored, also after an error.
                    A scale of 0 changes no bit

An adapter changes no weight, replaces no attention processor and makes no pipeline of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, cast

from pmagic import shelf
from pmagic.errors import Incompatible

if TYPE_CHECKING:
    from PIL import Image

    from pmagic.bases.adapter_files import AdapterFiles
    from pmagic.bases.loading import Base
    from pmagic.engine.image_attention import Look
    from pmagic.engine.regions import Box

SHELF = "adapters"


class Adapter(Protocol):
    """The interface of every module on this shelf."""

    READS: str
    SOURCE: str

    def recognizes(self, shapes: Mapping[str, tuple[int, ...]]) -> bool: ...

    def encode(
        self, base: Base, files: AdapterFiles, pictures: Mapping[str, Sequence[Image.Image]]
    ) -> Mapping[str, Look]: ...

    def apply(
        self, base: Base, looks: Mapping[str, Look], scale: float, *, guided: bool, regions: Mapping[str, Box]
    ) -> AbstractContextManager[None]: ...


def kind_of(files: AdapterFiles) -> Adapter:
    """The module that reads this adapter. Raises Incompatible if none does."""
    for name in shelf.names(SHELF):
        adapter = cast(Adapter, shelf.take(SHELF, name))
        if adapter.recognizes(files.shapes):
            return adapter
    raise Incompatible(
        f"the adapter {files.name} is of a kind that pmagic does not read", "`pmagic models list` shows those it reads"
    )
