"""Custom Diffusion's augmentation (Kumari et al., CVPR 2023; the authors' own program): views of the photos.

Two views of three have a scale of a third to 1 of the picture. Below 0.6 the photo is shrunk to it and placed at random
on black, and the prompt says so; above, the photo stays whole. Every third view is enlarged 1.2 to 1.4 times and cut.
The loss counts where a view shows the photo. The views are drawn and encoded once, before training, so that a step
takes no longer; the authors draw a new one for each sample.
"""

# P photos . V views . C latent channels . h, w latent height and width

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from pmagic.bases.loading import Base
from pmagic.engine import randomness
from pmagic.engine.subject import Subject

VIEWS = 48  # in all, at least one of each photo
PLAIN, FAR, NEAR = ("",), ("a far away ", "very small "), ("zoomed in ", "close up ")  # before the prompt
PREFIXES = (*PLAIN, *FAR, *NEAR)
SMALLEST, PLACED = 1 / 3, 0.6  # of the picture's side; below PLACED a photo is placed on black
ENLARGED = (1.2, 1.4)
_RING = 1  # cells at each side of a placed photo that the loss leaves out


@dataclass(frozen=True)
class View:
    """A photo resized to `side` pixels; its top left corner in the picture, or the picture's in it if it is larger."""

    side: int
    top: int
    left: int
    prefix: str


def sample_views(count: int, size: int, cell: int, seed: int) -> list[View]:
    """Random views for a picture of `size` pixels; `cell` pixels are one latent cell. The first of them is plain.

    A placed photo is at least so large that one cell is left inside its ring.
    """
    source = randomness.generator(seed, "augmentation")

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=source))

    def choose(texts: tuple[str, ...]) -> str:
        return texts[int(torch.randint(len(texts), (), generator=source))]

    views = [View(size, 0, 0, PLAIN[0])]
    while len(views) < count:
        if len(views) % 3 == 2:
            side = round(size * uniform(*ENLARGED))
            top, left = (round(uniform(0, side - size)) for _ in range(2))
            views.append(View(side, top, left, choose(NEAR)))
            continue
        side = max(round(size * uniform(SMALLEST, 1)), (1 + 2 * _RING) * cell)
        if side >= PLACED * size:
            views.append(View(size, 0, 0, PLAIN[0]))
            continue
        top, left = (round(uniform(0, size - side)) for _ in range(2))
        views.append(View(side, top, left, choose(FAR)))
    return views


def view_pixels(photo: Tensor, view: View) -> Tensor:
    """A square photo (1, 3, s, s), range [-1, 1], as the view shows it, on black: the same shape."""
    size = photo.shape[-1]
    if view.side == size:
        return photo
    shape = (view.side, view.side)
    resized = F.interpolate(photo, size=shape, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
    if view.side > size:
        return resized[..., view.top : view.top + size, view.left : view.left + size]
    picture = torch.full_like(photo, -1.0)
    picture[..., view.top : view.top + view.side, view.left : view.left + view.side] = resized
    return picture


def view_mask(view: View, size: int, cells: int) -> Tensor:
    """Where the loss counts, (1, 1, cells, cells): everywhere, or inside a placed photo, less a ring of one cell."""
    if view.side >= size:
        return torch.ones(1, 1, cells, cells)
    return placed_mask(view.side, view.top, view.left, size, cells)


def placed_mask(side: int, top: int, left: int, size: int, cells: int) -> Tensor:
    """The cells from the one after that of the first pixel to the one before that of the last: (1, 1, cells, cells)."""
    cell, mask = size // cells, torch.zeros(1, 1, cells, cells)
    rows, columns = (slice(at // cell + _RING, (at + side) // cell - _RING) for at in (top, left))
    mask[..., rows, columns] = 1.0
    return mask


def augmented(base: Base, subject: Subject, seed: int) -> Subject:
    """The subject with the views in the place of its photos, each with its mask and its words before the prompt.

    Raises ValueError for a subject without its photos' pixels.
    """
    if subject.pixels is None:
        raise ValueError("the photos' pixels are missing, so no other views of them can be encoded")
    vae, size, cells, photos = base.pipeline.vae, base.size, subject.mean.shape[-1], len(subject.mean)
    views = sample_views(max(VIEWS, photos), size, size // cells, seed)
    which = torch.arange(len(views), device=subject.mean.device) % photos
    means, stds = [], []
    for number, view in enumerate(views):
        pixels = view_pixels(subject.pixels[number % photos][None], view)
        with torch.no_grad():  # one by one: together they would need more memory than a learning step
            posterior = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
        means.append(posterior.mean.to(subject.mean))
        stds.append(posterior.std.to(subject.std))
    return replace(
        subject,
        mean=torch.cat(means),
        std=torch.cat(stds),
        mask=torch.cat([view_mask(each, size, cells) for each in views]).to(subject.mask),
        image_embedding=subject.image_embedding[which],
        sides=tuple(subject.sides[number % photos] for number in range(len(views))) if subject.sides else (),
        landmarks=None if subject.landmarks is None else _moved(subject.landmarks[which], views, size),
        likeness=None if subject.likeness is None else subject.likeness[which],
        pixels=None,
        prefixes=PREFIXES,
        prefix=torch.tensor([PREFIXES.index(each.prefix) for each in views], device=subject.mean.device),
    )


def _moved(landmarks: Tensor, views: list[View], size: int) -> Tensor:
    """The landmarks (V, 5, 2) in pixels of each view."""
    rows = []
    for points, view in zip(landmarks, views, strict=True):
        corner = torch.tensor([view.left, view.top], dtype=points.dtype, device=points.device)
        rows.append(points * (view.side / size) + (corner if view.side < size else -corner))
    return torch.stack(rows)
