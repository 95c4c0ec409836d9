"""Six styles, as OpenCV filters on a drawn picture."""

import cv2
import numpy as np
from numpy.random import Generator

Picture = np.ndarray  # (side, side, 3) uint8 RGB


def _gray(picture: Picture, rng: Generator) -> Picture:
    return np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)


def _pencil(picture: Picture, rng: Generator) -> Picture:
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    blurred = cv2.GaussianBlur(255 - gray, (0, 0), 3.2)
    sketch = cv2.addWeighted(cv2.divide(gray, 255 - blurred, scale=250), 0.82, gray, 0.22, 0).astype(np.float32)
    return _clip(sketch[..., None] * np.array([1.0, 0.985, 0.94]))


def _oil(picture: Picture, rng: Generator) -> Picture:
    side = picture.shape[0]
    push = cv2.GaussianBlur(rng.normal(0, 1, (side, side, 2)).astype(np.float32), (0, 0), 2.2) * 10
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    smeared = cv2.remap(
        picture, columns + push[..., 0], rows + push[..., 1], cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT
    )
    smeared = cv2.medianBlur(smeared, 5).astype(np.float32)
    strokes = cv2.GaussianBlur(rng.normal(0, 1, (side, side)).astype(np.float32), (0, 0), 1.8) * 40
    return _clip((smeared - 128) * 1.08 + 124 + strokes[..., None] * 0.6 + np.array([10, 2, -14]))


def _comic(picture: Picture, rng: Generator) -> Picture:
    flat = cv2.bilateralFilter(picture, 5, 40, 5)
    flat = np.round(_saturated(flat, 1.5).astype(np.float32) / 51) * 51
    edges = cv2.dilate(cv2.Canny(picture, 50, 120), np.ones((2, 2), np.uint8))
    return _clip(flat * (1 - cv2.GaussianBlur(edges, (3, 3), 0)[..., None] / 255.0))


def _neon(picture: Picture, rng: Generator) -> Picture:
    soft = cv2.GaussianBlur(picture, (3, 3), 0).astype(np.float32)
    edge = np.hypot(cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)).max(2)
    hsv = cv2.cvtColor(_saturated(picture, 1.6, 40), cv2.COLOR_RGB2HSV)
    hsv[..., 2] = 255
    lines = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32) * np.clip(edge / 160, 0, 1)[..., None]
    return _clip(lines + cv2.GaussianBlur(lines, (0, 0), 3.0) * 0.7 + picture * 0.16 + np.array([8, 2, 22]))


def _saturated(picture: Picture, factor: float, plus: float = 0) -> Picture:
    hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 1] = np.clip(hsv[..., 1] * factor + plus, 0, 255)
    return cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)


def _clip(values: np.ndarray) -> Picture:
    return np.clip(values, 0, 255).astype(np.uint8)


_FILTERS = {"gray": _gray, "pencil": _pencil, "oil": _oil, "comic": _comic, "neon": _neon}


def restyle(picture: Picture, style: str, rng: Generator) -> Picture:
    """The picture in a style of `scenes.STYLES`; "photo" leaves it as drawn."""
    return picture if style == "photo" else _FILTERS[style](picture, rng)
