"""The subject: everything that training needs from the photos, computed once."""

# P photos . C latent channels . h, w latent height and width . e image embedding width . E face embedding width

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pmagic.bases import model_spec
from pmagic.bases.loading import Base
from pmagic.bases.model_spec import ModelSpec
from pmagic.engine import face_selection, prompts
from pmagic.engine.face_selection import SelectedFace
from pmagic.errors import PhotoRefused, UsageError, WeightsMissing
from pmagic.vision import clip, clipseg

MIN_MASK_PROBABILITY = 0.2  # if the highest probability in a mask is lower, the word is not in the photo
MARGIN = 0.25  # of a face's box, kept around it when the square crop is moved to contain the face

# Left, top, right, bottom in pixels.
Frame = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The photos as encoded by the base and its vision models; the photos themselves are not included."""

    word: str  # super-category, one token of the base's tokenizer
    mean: Tensor  # (P, C, h, w), of the autoencoder's posterior, unscaled
    std: Tensor  # (P, C, h, w)
    mask: Tensor  # (P, 1, h, w), range [0, 1], where the subject is
    image_embedding: Tensor  # (P, e), CLIP's projection of each whole photo
    hashes: tuple[str, ...]  # SHA-256 of each photo's file
    landmarks: Tensor | None = None  # (P, 5, 2), x and y in pixels of the base's square picture; None without faces
    likeness: Tensor | None = None  # (P, E), unit rows: the recogniser's face embedding of that picture


def encode_photos(
    base: Base,
    photos: Sequence[Image.Image],
    hashes: Sequence[str],
    *,
    word: str,
    kind: prompts.Kind = "face",
    mask: Image.Image | None = None,
    known: Sequence[SelectedFace] | None = None,
) -> Subject:
    """Encode the photos once: autoencoder moments, mask on the latent grid, image embedding, face.

    For the autoencoder, photos are cropped to a square (the central one, moved as far as the face requires) and
    resized to the base's own size; CLIP gets them whole. Without a mask, CLIPSeg locates the word; a style fills the
    whole picture. known: the result of face_selection.select_faces if it was called before; otherwise it is called
    here, if the base has a face pack on this machine. Each photo is turned so that its face is upright.
    Raises UsageError for a word of several tokens or a mask with several photos, PhotoRefused, WeightsMissing.
    """
    if not photos:
        raise UsageError("there is no photo to learn from", "give at least one")
    if mask is not None and len(photos) > 1:
        raise UsageError("one mask cannot serve several photos", "learn from one photo, or leave the mask out")
    prompts.check_word(base.pipeline.tokenizer, word)
    if known is None and kind == "face" and isinstance(base.spec.faces, Path):
        names = [f"photo {number}" for number in range(1, len(photos) + 1)]
        known = face_selection.select_faces(base.spec, photos, names)
    faces: Sequence[SelectedFace | None] = known or [None] * len(photos)
    photos = [photo if each is None else each.turn_upright(photo) for photo, each in zip(photos, faces, strict=True)]
    if mask is not None and faces[0] is not None:
        mask = faces[0].turn_upright(mask)
    frames = [square_crop(photo.size, each) for photo, each in zip(photos, faces, strict=True)]
    squares = [photo.crop(where) for photo, where in zip(photos, frames, strict=True)]
    vae = base.pipeline.vae
    pixels = torch.cat([photo_pixels(square, base.size) for square in squares])
    with torch.no_grad():
        posterior = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
    size = posterior.mean.shape[-2:]
    if mask is not None:
        masks = latent_mask(mask.crop(frames[0]), size)
    elif kind == "style":
        masks = torch.ones(len(photos), 1, *size)
    else:
        seen = [_word_mask(base.spec, photo, word, each) for photo, each in zip(photos, faces, strict=True)]
        masks = torch.cat([_cut(each, where, size) for each, where in zip(seen, frames, strict=True)])
    found = Subject(
        word=word,
        mean=posterior.mean.to(base.learner_dtype),
        std=posterior.std.to(base.learner_dtype),
        mask=masks.to(vae.device, base.learner_dtype),
        image_embedding=observer(base).image_embedding(photos).to(base.learner_dtype),
        hashes=tuple(hashes),
    )
    return _add_faces(base, found, squares, frames, known) if known else found


def require_observers(spec: ModelSpec, kind: prompts.Kind, *, masked: bool, recognised: bool) -> None:
    """Raises WeightsMissing, before anything is loaded, if a vision model that training needs is missing.

    masked: whether the user gave a mask. recognised: whether a loss reads the face.
    """
    if recognised:
        face_selection.folder_of(spec)
    if kind != "style" and not masked:
        _segmenter_of(spec)


def observer(base: Base) -> clip.Clip:
    """The base's CLIP, opened once per process. Raises WeightsMissing if it is not on this machine."""
    return observer_of(base.spec, str(base.device))


def observer_of(spec: ModelSpec, device: str) -> clip.Clip:
    """The same as `observer`, before the base itself is opened."""
    return _open_clip(model_spec.clip_folder(spec), device)


def segmenter(spec: ModelSpec) -> clipseg.ClipSeg:
    """The base's CLIPSeg, opened once per process. Raises WeightsMissing if it is not on this machine."""
    return _open_clipseg(_segmenter_of(spec))


@lru_cache(maxsize=2)
def _open_clip(folder: Path, device: str) -> clip.Clip:
    return clip.load(folder, device=device)


@lru_cache(maxsize=2)
def _open_clipseg(folder: Path) -> clipseg.ClipSeg:
    return clipseg.load(folder)  # on the CPU: it runs once per photo


def square_crop(size: tuple[int, int], portrait: SelectedFace | None = None) -> Frame:
    """The square crop of a photo for training: the central one, moved along the long side to contain the whole face."""
    side = min(size)
    corner = [(each - side) // 2 for each in size]
    if portrait is not None:
        for axis in (0, 1):
            low, high = portrait.face.box[axis], portrait.face.box[axis + 2]
            margin = MARGIN * (high - low)
            moved = min(max(corner[axis], round(high + margin) - side), round(low - margin))
            corner[axis] = min(max(moved, 0), size[axis] - side)
    return corner[0], corner[1], corner[0] + side, corner[1] + side


def photo_pixels(photo: Image.Image, size: int) -> Tensor:
    """The central square of a photo at `size` x `size`: (1, 3, size, size), range [-1, 1]."""
    square = resize(photo, size)
    pixels = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8).view(1, size, size, 3)
    return pixels.permute(0, 3, 1, 2).to(torch.float64) / 127.5 - 1


def resize(photo: Image.Image, size: int) -> Image.Image:
    """The central square of a photo at `size` x `size` pixels, RGB."""
    square = photo.convert("RGB").crop(square_crop(photo.size))
    return square if square.size == (size, size) else square.resize((size, size), Image.Resampling.BICUBIC)


def latent_mask(mask: Image.Image, size: tuple[int, int]) -> Tensor:
    """The mask's central square on the latent grid, nearest neighbour: (1, 1, h, w), range [0, 1], white is subject."""
    square = mask.convert("L").crop(square_crop(mask.size))
    levels = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8).view(1, 1, *reversed(square.size))
    found = F.interpolate(levels.to(torch.float64) / 255, size=size, mode="nearest-exact")
    if not found.any():
        raise PhotoRefused(
            "the mask is empty: no part of the photo is marked", "paint the subject white, or leave the mask out"
        )
    return found


def _word_mask(spec: ModelSpec, photo: Image.Image, word: str, portrait: SelectedFace | None) -> Tensor:
    """The probability of the word at each pixel of the photo, 0 where another face is nearer: (H, W).

    Raises PhotoRefused if the word is not found in the photo.
    """
    found = segmenter(spec).mask(photo, word)
    if found.max() < MIN_MASK_PROBABILITY:
        raise PhotoRefused(
            f"no {word} is found in the photo: nowhere is it more than {found.max():.0%} probable",
            "say with --class what the photo shows, or with --mask where it is",
        )
    if portrait is not None:
        found = found * _nearest((found.shape[0], found.shape[1]), portrait)
    return found


def _nearest(size: tuple[int, int], portrait: SelectedFace) -> Tensor:
    """1 at each pixel whose nearest face is the selected one, 0 elsewhere: (H, W)."""
    down, across = torch.meshgrid(*(torch.arange(each) for each in size), indexing="ij")
    distances = []
    for face in (portrait.face, *portrait.others):
        left, top, right, bottom = face.box
        distances.append((across - (left + right) / 2) ** 2 + (down - (top + bottom) / 2) ** 2)
    return torch.stack(distances).argmin(dim=0) == 0


def _segmenter_of(spec: ModelSpec) -> Path:
    if not isinstance(spec.clipseg, Path):
        raise WeightsMissing(
            f"where the subject is in the photo is found with {spec.clipseg}, which is not on this machine",
            f"fetch it with `pmagic models pull {spec.clipseg}`, or say it yourself: `--recipe reference --mask MASK`",
        )
    return spec.clipseg


def _cut(found: Tensor, where: Frame, size: tuple[int, int]) -> Tensor:
    """The square crop of a photo's mask (H, W), averaged over each latent cell: (1, 1, h, w)."""
    left, top, right, bottom = where
    return F.adaptive_avg_pool2d(found[None, None, top:bottom, left:right].double(), size)


def _add_faces(
    base: Base, found: Subject, squares: Sequence[Image.Image], frames: Sequence[Frame], known: Sequence[SelectedFace]
) -> Subject:
    """Add landmarks and face embeddings to the subject, both of the square picture that the base encodes."""
    pack = face_selection.open_pack(base.spec)
    landmarks, likeness = [], []
    for square, where, portrait in zip(squares, frames, known, strict=True):
        scale = base.size / square.width
        moved = (portrait.face.landmarks - np.array(where[:2], np.float32)) * scale
        face = replace(portrait.face, landmarks=moved.astype(np.float32))
        landmarks.append(torch.from_numpy(face.landmarks))
        likeness.append(torch.from_numpy(pack.embed(resize(square, base.size), [face])[0]))
    return replace(
        found,
        landmarks=torch.stack(landmarks).to(base.device, base.learner_dtype),
        likeness=torch.stack(likeness).to(base.device, base.learner_dtype),
    )
