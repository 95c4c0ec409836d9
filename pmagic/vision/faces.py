"""Faces by insightface from a local folder: their boxes, five landmarks, and an embedding of each.

The folder is a pack as insightface publishes it: a detector and a recogniser as ONNX files. Nothing is downloaded here.
"""

# N faces . E embedding width

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pmagic.bases import model_spec, offline
from pmagic.errors import Incompatible, WeightsMissing


@dataclass(frozen=True)
class Face:
    """One face. Lengths are in pixels of its picture."""

    box: tuple[float, float, float, float]  # left, top, right, bottom
    landmarks: np.ndarray  # (5, 2) float32 x, y: left eye, right eye, nose, left and right mouth corner
    score: float  # of the detector, range [0, 1]

    @property
    def area(self) -> float:
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)


def _face(box: np.ndarray, landmarks: np.ndarray) -> Face:
    """A Face from a row of the detector's output: left, top, right, bottom and score."""
    left, top, right, bottom, score = (float(x) for x in box[:5])
    return Face((left, top, right, bottom), landmarks.astype(np.float32), score)


@dataclass(frozen=True)
class FacePack:
    """A loaded pack on the CPU: there are few pictures, and the input sizes change with each picture."""

    analysis: Any  # insightface.app.FaceAnalysis

    def find(self, picture: Image.Image) -> list[Face]:
        """All faces with a detector score above 0.5, the largest first; [] without a face."""
        boxes, landmarks = self.analysis.det_model.detect(_bgr(picture))
        faces = [_face(box, points) for box, points in zip(boxes, landmarks, strict=True)]
        return sorted(faces, key=lambda face: face.area, reverse=True)

    def embed(self, picture: Image.Image, faces: Sequence[Face]) -> np.ndarray:
        """The recogniser's embeddings of faces found in this picture, as unit rows: (N, E) float32."""
        from insightface.app.common import Face as Known

        pixels = _bgr(picture)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # insightface's use of scikit-image warns for every crop
            rows = [self.recogniser.get(pixels, Known(kps=face.landmarks)) for face in faces]
        raw = np.stack(rows).astype(np.float32) if rows else np.zeros((0, 1), np.float32)
        return raw / np.linalg.norm(raw, axis=1, keepdims=True).clip(min=1e-12)

    @property
    def recogniser(self) -> Any:
        """insightface's loaded recogniser, with its file, input size and pixel statistics."""
        return self.analysis.models["recognition"]


def load(folder: Path) -> FacePack:
    """Load the pack in `folder`. Raises WeightsMissing if it is missing, Incompatible if it cannot be used."""
    if not any(folder.glob("*.onnx")):  # checked before insightface, which would download missing files
        raise WeightsMissing(f"there is no face pack in {folder}", model_spec.suggest_restore(folder))
    offline.import_http_client()
    from insightface.app import FaceAnalysis

    try:
        analysis = FaceAnalysis(
            str(folder), allowed_modules=["detection", "recognition"], providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # insightface uses assert, onnxruntime has a dozen classes without a common base
        told = str(error).splitlines()[0] if str(error) else "it has no detector"
        raise Incompatible(
            f"the face pack in {folder} cannot be opened: {told}", model_spec.suggest_restore(folder)
        ) from error
    if "recognition" not in analysis.models or not getattr(analysis.det_model, "use_kps", False):
        lacks = "recogniser" if "recognition" not in analysis.models else "landmarks in its detector"
        raise Incompatible(f"the face pack in {folder} has no {lacks}", "use a complete pack, such as buffalo_l")
    analysis.prepare(ctx_id=-1)  # on the CPU, with the default threshold 0.5 and input sizes 128 and 640
    return FacePack(analysis)


def _bgr(picture: Image.Image) -> np.ndarray:
    """The pixels in BGR, OpenCV's channel order, which insightface expects: (H, W, 3) uint8."""
    return np.ascontiguousarray(np.asarray(picture.convert("RGB"))[:, :, ::-1])
