"""Face embedding: from clean latents to the face's embedding, differentiable, so that a loss can train the learner.

Decoding is the most expensive part of a step, so only the crop of the latents that the recogniser reads is decoded,
with a margin. The face is aligned by the photo's own landmarks, because it does not move during training.

    python -m pmagic.engine.face_embedding PHOTO --base mini

prints how well the crop agrees with decoding the whole picture.
"""

# P photos . B batch . C latent channels . h, w latent height and width . E face embedding width

import argparse
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from pmagic.bases.loading import Base, cast_network
from pmagic.bases.memory_estimate import DECODED_AT_ONCE
from pmagic.engine import face_selection
from pmagic.engine.subject import Subject
from pmagic.errors import UsageError
from pmagic.vision import recogniser

MARGIN = 1 / 16  # of the latents' side, decoded around the area that the recogniser reads


@dataclass(frozen=True, kw_only=True)
class FaceEmbedder:
    """The recogniser, and the crop of each photo's face in the latents. All crops are squares of one size."""

    base: Base
    decoder: nn.Module  # (B, C, side, side), not scaled -> (B, 3, H, W), range [-1, 1]; in `base.compute_dtype`
    network: nn.Module  # (B, 3, 112, 112), range [-1, 1] -> (B, E)
    landmarks: Tensor  # (P, 5, 2), x and y in pixels of the base's square picture
    likeness: Tensor  # (P, E), the photos' own embeddings
    corners: Tensor  # (P, 2) long, column and row of each crop's first latent cell
    side: int  # of each crop, in latent cells

    def __call__(self, clean: Tensor, photo: Tensor) -> Tensor:
        """The embeddings (B, E) of the faces in clean, scaled latents (B, C, h, w); differentiable in `clean`.

        photo: (B,), the photo that each row was noised from, whose crop and landmarks are used.
        """
        vae, pixel = self.base.pipeline.vae, self.base.pipeline.vae_scale_factor
        corners = self.corners[photo]
        cells = corners[:, :, None] + torch.arange(self.side, device=corners.device)  # (B, 2, side): columns, rows
        rows = torch.arange(len(clean), device=clean.device)[:, None, None]
        crops = clean.permute(0, 2, 3, 1)[rows, cells[:, 1, :, None], cells[:, 0, None, :]].permute(0, 3, 1, 2)
        landmarks = self.landmarks[photo] - corners[:, None] * pixel
        crops = crops.contiguous().to(vae.dtype) / vae.config.scaling_factor
        with self.base.autocast():
            pixels = self.decoder(crops.to(self.base.compute_dtype or vae.dtype))
        aligned = recogniser.align(pixels.to(clean.dtype), landmarks)
        return self.network(aligned)

    def identity_distance(self, clean: Tensor, photo: Tensor) -> Tensor:
        """1 - cosine of each face in `clean` and its photo's face, range [0, 2]: (B,). Arguments as for `__call__`.

        Faces are decoded in chunks of as many as DECODED_AT_ONCE allows.
        """

        def look(clean: Tensor, photo: Tensor) -> Tensor:
            return 1 - F.cosine_similarity(self(clean, photo), self.likeness[photo], dim=-1)

        pixels = (self.side * self.base.pipeline.vae_scale_factor) ** 2
        return _ChunkedLoss.apply(clean, photo, look, max(1, DECODED_AT_ONCE // pixels))


class _ChunkedLoss(torch.autograd.Function):
    """A loss for each row, computed in chunks together with its gradient.

    A chunk's graph is freed before the next chunk is computed, so memory holds one chunk at a time.
    """

    @staticmethod
    def forward(
        ctx: Any, given: Tensor, photo: Tensor, look: Callable[[Tensor, Tensor], Tensor], at_once: int
    ) -> Tensor:
        values, slopes = [], []
        for rows, whose in zip(given.split(at_once), photo.split(at_once), strict=True):
            rows = rows.detach().requires_grad_()
            with torch.enable_grad():
                value = look(rows, whose)
            slopes += torch.autograd.grad(value, rows, torch.ones_like(value))
            values.append(value.detach())
        ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return slope[:, None, None, None] * slopes, None, None, None


def open_face_embedder(base: Base, subject: Subject, *, margin: float = MARGIN) -> FaceEmbedder:
    """The face embedder of a subject. margin: as a share of the latents' side; 1 decodes everything.

    Raises UsageError for a subject without a face, WeightsMissing if there is no face pack.
    """
    folder = face_selection.folder_of(base.spec)
    if subject.landmarks is None or subject.likeness is None:
        raise UsageError("the identity loss needs a face, and the photo was learned without one", "use --class face")
    corners, side = crops(base, subject.landmarks, margin=margin)
    return FaceEmbedder(
        base=base,
        decoder=_decoder(base),
        network=recogniser.load(folder, device=base.device, dtype=base.learner_dtype),
        landmarks=subject.landmarks,
        likeness=subject.likeness,
        corners=corners,
        side=side,
    )


def crops(base: Base, landmarks: Tensor, *, margin: float = MARGIN) -> tuple[Tensor, int]:
    """Column and row of each crop's first latent cell (P, 2), and the side of all crops. landmarks: (P, 5, 2)."""
    pixel = base.pipeline.vae_scale_factor
    cells = base.size // pixel
    reach = round(margin * cells)
    box = aligned_box(landmarks, base.size)  # (P, 4)
    low = (box[:, :2] / pixel).floor().long() - reach
    high = (box[:, 2:] / pixel).ceil().long() + reach
    side = min(cells, int((high - low).max()))
    return ((low + high - side) // 2).clamp(0, cells - side), side


def _decoder(base: Base) -> nn.Module:
    """The base's decoder, or a copy of it in `base.compute_dtype`; everything else decodes in the base's own type.

    It keeps the contiguous memory format, unlike the UNet: its activations are large, and group norms on a GPU would
    convert each of them.
    """
    from diffusers.models.attention_processor import Attention, AttnProcessor

    vae = base.pipeline.vae
    parts = nn.Sequential(*(part for part in (vae.post_quant_conv, vae.decoder) if part is not None))
    if base.compute_dtype is None:
        return parts
    parts = copy.deepcopy(parts)
    cast_network(parts, base.compute_dtype, fp32_norms=base.fp32_norms)
    if not base.fp32_norms:  # one head spans all channels; fused attention on a GPU has a slow backward pass for that
        for part in parts.modules():
            if isinstance(part, Attention):
                part.set_processor(AttnProcessor())
    return parts


def aligned_box(landmarks: Tensor, size: int) -> Tensor:
    """The smallest box around all pixels that alignment reads: (P, 4) left, top, right, bottom.

    landmarks: (P, 5, 2), in pictures of `size` x `size` pixels. The box is found by aligning a picture of coordinates.
    """
    line = torch.arange(size, dtype=landmarks.dtype, device=landmarks.device)
    inside = torch.ones(size, size, dtype=landmarks.dtype, device=landmarks.device)
    picture = torch.stack([line.expand(size, size), line[:, None].expand(size, size), inside])
    seen = recogniser.align(picture.expand(len(landmarks), -1, -1, -1), landmarks).flatten(2)  # (P, 3, 112 * 112)
    there = seen[:, 2:] > 0.99  # alignment fills with -1 outside the picture
    low = seen[:, :2].masked_fill(~there, float("inf")).amin(dim=-1)
    high = seen[:, :2].masked_fill(~there, float("-inf")).amax(dim=-1)
    return torch.cat([low, high + 1], dim=-1)


@dataclass(frozen=True)
class Agreement:
    """The agreement of one crop's embedding and gradient with those of the whole decoded picture."""

    margin: float
    side: int  # latent cells
    embedding: float  # cosine
    gradient: float  # cosine; the gradient of the loss 1 - cosine with respect to the latents


def agreements(base: Base, subject: Subject, margins: Sequence[float]) -> list[Agreement]:
    """Compare the crop with the whole picture for several margins, at the photos' latents with a little noise added."""
    scale = base.pipeline.vae.config.scaling_factor
    noise = torch.randn(subject.mean.shape, generator=torch.Generator().manual_seed(0)).to(subject.mean)
    latents = scale * subject.mean + 0.1 * noise
    photo = torch.arange(len(latents), device=base.device)

    def answer(margin: float) -> tuple[int, Tensor, Tensor]:
        given = latents.clone().requires_grad_()
        look = open_face_embedder(base, subject, margin=margin)
        seen = look(given, photo)
        (1 - F.cosine_similarity(seen, look.likeness, dim=-1)).sum().backward()
        return look.side, seen.detach().flatten(), cast(Tensor, given.grad).flatten()

    _, embedding, gradient = answer(1.0)
    found = []
    for margin in margins:
        side, seen, slope = answer(margin)
        cosines = [float(F.cosine_similarity(*pair, dim=0)) for pair in ((seen, embedding), (slope, gradient))]
        found.append(Agreement(margin, side, *cosines))
    return found


def _main() -> None:
    from pmagic.bases import loading, model_spec
    from pmagic.engine.subject import encode_photos
    from pmagic.pictures import read_photo

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path, nargs="+")
    parser.add_argument("--base", default="mini")
    arguments = parser.parse_args()
    base = loading.load(model_spec.resolve(arguments.base))
    print("| photo | margin | crop | embedding | gradient |\n|---|---|---|---|---|")
    cells = base.size // base.pipeline.vae_scale_factor
    for path in arguments.photo:
        photo = read_photo(path)
        everywhere = Image.new("L", photo.image.size, 255)  # the mask does not matter here
        subject = encode_photos(base, [photo.image], [photo.sha256], word="face", mask=everywhere)
        for each in agreements(base, subject, (0.0, 1 / 32, 1 / 16, 1 / 8, 1 / 4)):
            print(
                f"| {path.name} | {each.margin:.3f} | {each.side} of {cells} cells "
                f"| {each.embedding:.4f} | {each.gradient:.4f} |"
            )


if __name__ == "__main__":
    _main()
