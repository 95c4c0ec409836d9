"""insightface on a plain folder: where faces are, their five landmarks, and an embedding of each.

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
    """One face. Lengths are pixels of the picture that it was found in."""

    box: tuple[float, float, float, float]  # left, top, right, bottom
    landmarks: np.ndarray  # (5, 2) float32 x, y: left eye, right eye, nose, left and right mouth corner
    score: float  # of the detector, range [0, 1]

    @property
    def area(self) -> float:
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)


def _face(box: np.ndarray, landmarks: np.ndarray) -> Face:
    """A row of the detector's answer: left, top, right, bottom and score."""
    left, top, right, bottom, score = (float(x) for x in box[:5])
    return Face((left, top, right, bottom), landmarks.astype(np.float32), score)


@dataclass(frozen=True)
class FacePack:
    """An opened pack, on the CPU: pictures are few, and its sizes change with each."""

    analysis: Any  # insightface.app.FaceAnalysis

    def find(self, picture: Image.Image) -> list[Face]:
        """Every face that the detector is surer than not of, the largest first; [] if there is none."""
        boxes, landmarks = self.analysis.det_model.detect(_bgr(picture))
        faces = [_face(box, points) for box, points in zip(boxes, landmarks, strict=True)]
        return sorted(faces, key=lambda face: face.area, reverse=True)

    def embed(self, picture: Image.Image, faces: Sequence[Face]) -> np.ndarray:
        """The recogniser's answer for faces found in this picture, as unit rows: (N, E) float32."""
        from insightface.app.common import Face as Known

        pixels = _bgr(picture)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # insightface's, of scikit-image, for every crop
            rows = [self.recogniser.get(pixels, Known(kps=face.landmarks)) for face in faces]
        raw = np.stack(rows).astype(np.float32) if rows else np.zeros((0, 1), np.float32)
        return raw / np.linalg.norm(raw, axis=1, keepdims=True).clip(min=1e-12)

    @property
    def recogniser(self) -> Any:
        """insightface's own opened recogniser: its file, input size and pixel statistics."""
        return self.analysis.models["recognition"]


def load(folder: Path) -> FacePack:
    """Open the pack in `folder`. Raises WeightsMissing where there is none, Incompatible where it cannot be used."""
    if not any(folder.glob("*.onnx")):  # asked before insightface, which would download what it does not find
        raise WeightsMissing(f"there is no face pack in {folder}", model_spec.restoring(folder))
    offline.import_http_client()
    from insightface.app import FaceAnalysis

    try:
        analysis = FaceAnalysis(
            str(folder), allowed_modules=["detection", "recognition"], providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # insightface asserts, onnxruntime has a dozen classes without a common name
        told = str(error).splitlines()[0] if str(error) else "it has no detector"
        raise Incompatible(
            f"the face pack in {folder} cannot be opened: {told}", model_spec.restoring(folder)
        ) from error
    if "recognition" not in analysis.models or not getattr(analysis.det_model, "use_kps", False):
        lacks = "recogniser" if "recognition" not in analysis.models else "landmarks in its detector"
        raise Incompatible(f"the face pack in {folder} has no {lacks}", "use a complete pack, such as buffalo_l")
    analysis.prepare(ctx_id=-1)  # the CPU, its usual threshold of 0.5, and its usual input sizes of 128 and 640
    return FacePack(analysis)


def _bgr(picture: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 in OpenCV's order of colours, which insightface expects."""
    return np.ascontiguousarray(np.asarray(picture.convert("RGB"))[:, :, ::-1])
