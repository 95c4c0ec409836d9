"""The files of adapters: their names, where they are on this machine, and where the hub has them. It opens no weights.

An adapter is one safetensors file and the folder of the image encoder that it was trained with.
"""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pmagic import settings
from pmagic.bases import checksums, file_kinds
from pmagic.bases.model_spec import place_of
from pmagic.errors import Incompatible, NotFound, WeightsMissing

if TYPE_CHECKING:
    from torch import Tensor

REPO = "h94/IP-Adapter"
LICENCE = "Apache-2.0"
ENCODER = "ip-adapter-encoder"  # CLIP ViT-H/14, which all adapters below were trained with
ENCODER_FOLDER = "models/image_encoder"
BESIDE = "image_encoder"  # the folder beside an adapter's file that holds its encoder


@dataclass(frozen=True, kw_only=True)
class HubAdapter:
    """A file of the hub's repository. base: what it was trained for, in words. size: in bytes."""

    file: str
    base: str
    size: int
    reads_faces: bool = False


KNOWN: Mapping[str, HubAdapter] = {
    "ip-adapter": HubAdapter(file="models/ip-adapter_sd15.safetensors", base="SD 1.x", size=44_600_000),
    "ip-adapter-plus": HubAdapter(file="models/ip-adapter-plus_sd15.safetensors", base="SD 1.x", size=98_200_000),
    "ip-adapter-plus-face": HubAdapter(
        file="models/ip-adapter-plus-face_sd15.safetensors", base="SD 1.x", size=98_200_000, reads_faces=True
    ),
    "ip-adapter-full-face": HubAdapter(
        file="models/ip-adapter-full-face_sd15.safetensors", base="SD 1.x", size=43_600_000, reads_faces=True
    ),
    "ip-adapter-sdxl": HubAdapter(file="sdxl_models/ip-adapter_sdxl_vit-h.safetensors", base="SDXL", size=698_000_000),
    "ip-adapter-plus-sdxl": HubAdapter(
        file="sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors", base="SDXL", size=848_000_000
    ),
    "ip-adapter-plus-face-sdxl": HubAdapter(
        file="sdxl_models/ip-adapter-plus-face_sdxl_vit-h.safetensors", base="SDXL", size=848_000_000, reads_faces=True
    ),
}
ENCODER_SIZE = 2_530_000_000
DOWNLOADS: Mapping[str, int] = {name: each.size for name, each in KNOWN.items()} | {ENCODER: ENCODER_SIZE}


@dataclass(frozen=True, kw_only=True)
class AdapterFiles:
    """An adapter on this machine.

    name: as pictures call it: a known name, or the name of the file without its folder. encoder: the folder of its
    image encoder. reads_faces: whether it was trained on faces cut out of their pictures.
    """

    name: str
    path: Path
    encoder: Path
    reads_faces: bool = False

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor by its name, from the file's header."""
        return file_kinds.shapes_of(self.path)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file."""
        return checksums.sha256(self.path)

    @cached_property
    def encoder_sha256(self) -> str:
        """SHA-256 of the encoder's weights. Raises WeightsMissing without them."""
        weights = self.encoder / "model.safetensors"
        if not weights.is_file():
            raise WeightsMissing(
                f"the image encoder in {self.encoder} has no model.safetensors", "restore the folder, or pull it again"
            )
        return checksums.sha256(weights)

    def read(self) -> "dict[str, Tensor]":
        """All tensors of the file. Raises Incompatible for a file that cannot be read."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self.path)
        except (OSError, SafetensorError) as error:
            raise Incompatible(
                f"the adapter {self.name} cannot be read: {error}", "fetch or copy the file again"
            ) from error


def files_of(name: str) -> list[str]:
    """The files of the hub's repository that a known adapter, or the encoder, consists of."""
    encoder = [f"{ENCODER_FOLDER}/{each}" for each in ("config.json", "model.safetensors")]
    return encoder if name == ENCODER else [KNOWN[name].file]


def find(name: str) -> AdapterFiles:
    """The adapter of a known name, or of a safetensors file whose encoder is in `image_encoder` beside it.

    Raises NotFound for an unknown name, WeightsMissing for an adapter or an encoder that is not on this machine, and
    Incompatible for a file that is no adapter: a pickle, a cut file, another kind of weights.
    """
    path = settings.expand_path(name)
    if name in KNOWN:
        path, encoder = place_of(name) / KNOWN[name].file, place_of(ENCODER) / ENCODER_FOLDER
        missing = [each for each, there in ((name, path), (ENCODER, encoder)) if not os.path.lexists(there)]
        if missing:
            what = f"the adapter {name}" if name in missing else f"the image encoder of {name}"
            size = sum(DOWNLOADS[each] for each in missing) / 1e9
            raise WeightsMissing(
                f"{what} is not on this machine",
                f"fetch {size:.2g} GB with `pmagic models pull {name}`, or give the path of a file of your own",
            )
    elif os.path.lexists(path):
        encoder = path.parent / BESIDE
    else:
        close = difflib.get_close_matches(name.lower(), KNOWN, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise NotFound(f"there is no adapter {name!r}", f"{hint}--with takes {', '.join(KNOWN)}, or a safetensors file")
    _require_safetensors(path, name)
    if not encoder.is_dir():
        raise WeightsMissing(
            f"the adapter {path.name} needs its image encoder in {encoder}, and there is none",
            f"put there the folder {BESIDE} of {REPO} ({ENCODER_FOLDER} for ViT-H), as the adapter's page says",
        )
    known = KNOWN.get(name) or next((each for each in KNOWN.values() if Path(each.file).name == path.name), None)
    title = name if name in KNOWN else path.name
    return AdapterFiles(name=title, path=path, encoder=encoder, reads_faces=known is not None and known.reads_faces)


def _require_safetensors(path: Path, name: str) -> None:
    kind = file_kinds.file_kind(path) if path.is_file() else "no file"
    if kind in (file_kinds.IP_ADAPTER, file_kinds.WEIGHTS):  # the shelf of adapters says which one it is
        return
    if any(path.suffix.lower() in endings for endings in file_kinds.UNREAD.values()):
        advice = f"give the .safetensors file of the same adapter, as {REPO} has it"
    elif name in KNOWN:
        advice = f"remove it with `pmagic models rm {name}`, then fetch it with `pmagic models pull {name}`"
    else:
        advice = "give an IP-Adapter as one complete .safetensors file"
    raise Incompatible(f"{path} is {kind}, and an adapter is a whole safetensors file of its own", advice)
