"""The observers of an evaluation: CLIP, and the judge, a face pack whose recogniser no loss uses.

Each is opened once.
"""

# N pictures . T texts . P photos learned from . U photos not learned from . E width of the judge's embedding

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pmagic.bases import model_spec
from pmagic.bases.model_spec import ModelSpec
from pmagic.engine import subject
from pmagic.errors import Incompatible, PhotoRefused, WeightsMissing
from pmagic.evaluation.eval_config import EvalSubject
from pmagic.vision import clip, faces


@dataclass(frozen=True)
class FaceScan:
    """The faces that the judge finds in one picture. All but count describe the largest face; None without a face."""

    count: int
    embedding: np.ndarray | None = None  # (E,), a unit row
    x: float | None = None  # the midpoint between the eyes, as a fraction of the picture's width
    size: float | None = None  # the distance from eyes to mouth, as a fraction of the picture's height


@dataclass(frozen=True)
class Known:
    """The face embeddings of a person's photos, as unit rows."""

    learned: np.ndarray  # (P, E)
    unseen: np.ndarray  # (U, E), of the unseen photos with a face; U may be 0
    faceless: tuple[str, ...]  # the files of the unseen photos without a face
    scans: tuple[FaceScan, ...] = ()  # of the photos learned from


class Observers:
    """The models that metrics use. Each text is encoded once; the embeddings of the last pictures are cached."""

    def __init__(self, eyes: clip.Clip, pack: faces.FacePack) -> None:
        self._clip, self._pack = eyes, pack
        self._texts: dict[str, Tensor] = {}
        self._seen: tuple[Sequence[Image.Image], Tensor] | None = None
        self._scanned: tuple[Sequence[Image.Image], list[FaceScan]] | None = None

    def clip_similarity(self, pictures: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        """The cosine of each picture with each text, with Hessel's prefix: (N, T), range [-1, 1]."""
        for text in texts:
            if text not in self._texts:
                self._texts[text] = self._clip.text_embedding([text])[0]
        said = torch.stack([self._texts[text] for text in texts])
        if self._seen is None or self._seen[0] is not pictures:
            self._seen = (pictures, self._clip.cropped_embedding(pictures))
        return F.cosine_similarity(self._seen[1][:, None], said[None], dim=-1).cpu()

    def face(self, picture: Image.Image) -> np.ndarray | None:
        """The unit embedding of the largest face (E,), None without a face."""
        return self._scan(picture).embedding

    def scans(self, pictures: Sequence[Image.Image]) -> list[FaceScan]:
        """A FaceScan of each picture."""
        if self._scanned is None or self._scanned[0] is not pictures:
            self._scanned = (pictures, [self._scan(picture) for picture in pictures])
        return self._scanned[1]

    def _scan(self, picture: Image.Image) -> FaceScan:
        found = self._pack.find(picture)
        if not found:
            return FaceScan(0)
        left_eye, right_eye, _, left_mouth, right_mouth = found[0].landmarks
        eyes, mouth = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
        return FaceScan(
            count=len(found),
            embedding=self._pack.embed(picture, found[:1])[0],
            x=float(eyes[0] / picture.width),
            size=float(np.linalg.norm(mouth - eyes) / picture.height),
        )

    def known(self, who: EvalSubject) -> Known:
        """The faces in the subject's photos. Raises PhotoRefused if no face is found in a photo learned from."""
        scans = tuple(self._scan(photo) for photo in who.photos)
        learned, faceless = _faces(scans, who.files[: who.learned])
        if faceless:
            raise PhotoRefused(
                f"no face is found in {', '.join(faceless)} of {who.name}", "take the photo out of the data set"
            )
        unseen = [self._scan(photo) for photo in who.unseen]
        return Known(learned, *_faces(unseen, who.files[who.learned :]), scans)


def _faces(scans: Sequence[FaceScan], files: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The embedding of each photo's largest face, and the files without a face."""
    rows = [scan.embedding for scan in scans if scan.embedding is not None]
    faceless = tuple(file for file, scan in zip(files, scans, strict=True) if scan.embedding is None)
    return np.stack(rows) if rows else np.zeros((0, 1), np.float32), faceless


def observers(spec: ModelSpec, device: str) -> Observers:
    """Open the observers. Raises WeightsMissing if a model is missing, Incompatible if a loss uses the judge."""
    eyes = subject.observer_of(spec, device)
    pack = faces.load(_eval_pack(spec))
    if isinstance(spec.faces, Path) and _digest(faces.load(spec.faces)) == _digest(pack):
        raise Incompatible(
            f"the face packs {spec.faces} and {spec.eval_recognizer} hold the same recogniser: learned against and "
            "judged by one network, likeness would mean nothing",
            "set another pack for `judge` in the base's pmagic.toml",
        )
    return Observers(eyes, pack)


def identity(spec: ModelSpec) -> dict[str, str]:
    """The identity of each observer: the name of its folder and a digest of its weights."""
    folders = {"clip": model_spec.clip_folder(spec), "judge": _eval_pack(spec)}
    return {name: f"{folder.name} {_of_files(folder)}" for name, folder in folders.items()}


def _eval_pack(spec: ModelSpec) -> Path:
    if not isinstance(spec.eval_recognizer, Path):
        raise WeightsMissing(
            f"likeness is judged with the face pack {spec.eval_recognizer}, which is not on this machine",
            f"fetch it with `pmagic models pull {spec.eval_recognizer}`",
        )
    return spec.eval_recognizer


def _digest(pack: faces.FacePack) -> str:
    return hashlib.sha256(Path(pack.recogniser.model_file).read_bytes()).hexdigest()


def _of_files(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(each for each in folder.iterdir() if each.suffix in (".onnx", ".safetensors")):
        with path.open("rb") as file:
            total.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()[:16]
