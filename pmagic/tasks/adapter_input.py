"""An adapter and its looks for a drawing: reading, checks, and encoding for the base."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pmagic.bases import adapter_files
from pmagic.bases.adapter_files import AdapterFiles
from pmagic.errors import PhotoRefused, UsageError, WeightsMissing
from pmagic.tasks.reporting import Reporter

if TYPE_CHECKING:
    from PIL import Image

    from pmagic.adapters import Adapter
    from pmagic.bases.loading import Base
    from pmagic.bases.model_spec import ModelSpec
    from pmagic.engine.image_attention import Look
    from pmagic.engine.regions import Box
    from pmagic.pictures import Photo

DEFAULT_SCALE = 0.6  # the authors give 1 for the picture alone, and 0.5 with a prompt
MAX_SCALE = 5.0
FACE_SIDE = 2.0  # the side of the square that is cut around a face, in sides of the face's box


@dataclass(frozen=True, kw_only=True)
class AdapterInput:
    """An adapter, and the looks that it reads: by the name in the prompt's braces, or "" for the whole picture."""

    files: AdapterFiles
    looks: "Mapping[str, Sequence[Photo]]"
    scale: float

    def squares(self, reporter: Reporter, spec: "ModelSpec") -> "Mapping[str, list[Image.Image]]":
        """What the adapter reads of each look: the picture, or the largest face if it was trained on faces.

        Raises PhotoRefused without a face, WeightsMissing without the base's face pack.
        """
        if not self.files.reads_faces:
            return {name: [each.image for each in photos] for name, photos in self.looks.items()}
        if not isinstance(spec.faces, Path):
            raise WeightsMissing(
                f"{self.files.name} reads faces, which are found with the pack {spec.faces}, and it is not on this "
                "machine",
                f"fetch it with `pmagic models pull {spec.faces}`, or use ip-adapter-plus, which reads whole pictures",
            )
        return {name: [_face_square(reporter, spec, each) for each in photos] for name, photos in self.looks.items()}

    def encode(
        self, base: "Base", pictures: "Mapping[str, Sequence[Image.Image]]", titles: Mapping[str, str]
    ) -> "AppliedAdapter":
        """The looks as the base reads them. titles: of the names, for the metadata: alice@1 for alice.

        Raises Incompatible for an adapter of another base.
        """
        from pmagic import adapters

        kind = adapters.kind_of(self.files)
        looks = kind.encode(base, self.files, pictures)
        return AppliedAdapter(kind=kind, looks=looks, scale=self.scale, metadata=self._metadata(titles))

    def _metadata(self, titles: Mapping[str, str]) -> dict[str, object]:
        """What decides a picture besides the persona: hashes, and no path."""
        hashes = {name: [each.sha256 for each in photos] for name, photos in self.looks.items()}
        return {
            "adapter": self.files.name,
            "adapter_sha256": self.files.sha256,
            "encoder_sha256": self.files.encoder_sha256,
            "scale": self.scale,
            "look_sha256": hashes.get("", {titles.get(name, name): each for name, each in hashes.items()}),
        }


@dataclass(frozen=True, kw_only=True)
class AppliedAdapter:
    """An adapter with its looks encoded for one base. metadata: of its pictures."""

    kind: "Adapter"
    looks: "Mapping[str, Look]"
    scale: float
    metadata: Mapping[str, object]

    def applied(self, base: "Base", guidance: float, regions: "Mapping[str, Box]") -> AbstractContextManager[None]:
        """The context in which the base draws with the looks, each in its own region if it has a name."""
        own = {} if "" in self.looks else regions
        # The stock pipelines call the UNet with an unconditional half if guidance is more than 1.
        return self.kind.apply(base, self.looks, self.scale, guided=guidance > 1, regions=own)


def read(
    adapter: str | None,
    looks: Sequence[str],
    scale: float | None,
    names: Sequence[str] = (),
    placed: Sequence[str] = (),
) -> AdapterInput | None:
    """The adapter and the looks of a command; None without an adapter.

    looks: paths, each as `NAME=PATH` if it is for one name. names: those in the prompt; placed: those with a region.
    Raises UsageError, NotFound, PhotoRefused, WeightsMissing, Incompatible.
    """
    from pmagic import pictures

    if adapter is None:
        if looks or scale is not None:
            raise UsageError(
                f"{'--look' if looks else '--scale'} needs an adapter that reads a look",
                "add for example --with ip-adapter",
            )
        return None
    if not looks:
        raise UsageError(f"--with {adapter} needs a picture to look at", "add --look PICTURE")
    scale = DEFAULT_SCALE if scale is None else scale
    if not 0 <= scale <= MAX_SCALE:
        raise UsageError(
            f"--scale must be from 0 to {MAX_SCALE:g}, not {scale}", "0 leaves the look out, 1 is the adapter in full"
        )
    paths: dict[str, list[Path]] = {}
    for each in looks:
        name, path = _split(each, names)
        paths.setdefault(name, []).append(path)
    _check_names(list(paths), placed)
    files = adapter_files.find(adapter)
    return AdapterInput(
        files=files,
        looks={name: [pictures.read_photo(each) for each in some] for name, some in paths.items()},
        scale=scale,
    )


def _split(look: str, names: Sequence[str]) -> tuple[str, Path]:
    """`alice=a.jpg` -> ("alice", a.jpg) if the prompt names alice or alice@1; a path alone is for the whole picture."""
    name, equals, path = look.partition("=")
    own = [name] if name in names else [each for each in names if each.partition("@")[0] == name]
    if equals and own:
        return own[0], Path(path)
    if equals and names and not Path(look).exists():
        raise UsageError(
            f"--look {look[:80]!r} is for {name[:40]!r}, whom the prompt does not name",
            f"write it as {names[0]}=PICTURE, or the picture alone for all",
        )
    return "", Path(look)


def _check_names(named: Sequence[str], placed: Sequence[str]) -> None:
    own = [name for name in named if name]
    if own and "" in named:
        raise UsageError("a look for all and a look for one name cannot be together", f"give --look {own[0]}=... only")
    astray = [name for name in own if name not in placed]
    if astray:
        raise UsageError(
            f"the look of {astray[0]} is read in its own place, and {astray[0]} has none",
            "add --layout, as in --layout left,right, or give the picture without a name",
        )


def _face_square(reporter: Reporter, spec: "ModelSpec", photo: "Photo") -> "Image.Image":
    """A square around the largest face, twice as wide as the face where the picture has room, turned upright."""
    from pmagic.engine import face_selection

    try:
        (selected,) = face_selection.select_faces(spec, [photo.image], [str(photo.path)], pick=1)
    except PhotoRefused as problem:
        raise PhotoRefused(
            problem.what,
            "give a sharp picture with one face from the front, or use ip-adapter-plus, which reads whole pictures",
        ) from problem
    if selected.others:
        reporter.warn(f"there are {len(selected.others) + 1} faces in {photo.path}: the largest one is read")
    upright = selected.turn_upright(photo.image)
    left, top, right, bottom = selected.face.box
    side = min(round(FACE_SIDE * max(right - left, bottom - top)), *upright.size)
    corner = [round((low + high - side) / 2) for low, high in ((left, right), (top, bottom))]
    x, y = (min(max(each, 0), whole - side) for each, whole in zip(corner, upright.size, strict=True))
    return upright.crop((x, y, x + side, y + side))
