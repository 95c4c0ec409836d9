"""The mapper: the small network that is trained. It maps (t, photo) to dynamic tokens and residuals.

It knows nothing about prompts or text encoders, only about widths and the embedding of one word.
"""

# B batch . n placeholder tokens . w text width . e image embedding width

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pmagic.engine import randomness
from pmagic.engine.recipes import LearnSettings
from pmagic.persona import REFERENCE_BOUNDS, StageBounds

TIME_FEATURES = 2048
ANCHORS = 200
HIDDEN = 128


@dataclass(frozen=True)
class MapperShape:
    """tokens n >= 1, text_width w (768 for SD 1.x), image_width e (512 for CLIP ViT-B/32).

    encoder_widths: of several text encoders, whose embeddings stand side by side and are w wide together.
    """

    tokens: int
    text_width: int
    image_width: int
    encoder_widths: tuple[int, ...] = ()


def time_features(t: Tensor) -> Tensor:
    """Sinusoidal features of timesteps: (B,) -> (B, 2048) in t's type, cosines first, periods 2*pi to 2*pi*10000."""
    half = TIME_FEATURES // 2
    # The frequencies are rounded to float32 whatever the type of t, as in the authors' code.
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t[:, None] * frequencies.to(t.dtype)[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def keep_length(vectors: Tensor, like: Tensor) -> Tensor:
    """`vectors` rescaled to the lengths of `like`: normalize(vectors) * ||like||, over the last axis.

    Written as a ratio of lengths so that `vectors == like` comes back bit for bit.
    """
    return vectors * (like.norm(dim=-1, keepdim=True) / vectors.norm(dim=-1, keepdim=True))


class Mapper(nn.Module):
    """Time and image branches with a shared hidden time code (paper, Fig. 3; layer layout of the authors' code).

    word: (w,) the frozen token embedding of the super-category word.
    """

    word: Tensor  # (w,)

    def __init__(self, shape: MapperShape, word: Tensor, bounds: StageBounds) -> None:
        super().__init__()
        if word.shape != (shape.text_width,):
            raise ValueError(f"the word embedding has shape {tuple(word.shape)}, expected ({shape.text_width},)")
        self.shape = shape
        outputs = shape.tokens * shape.text_width
        self.time_input = nn.Linear(TIME_FEATURES, ANCHORS)
        self.time_hidden = _two_layers(ANCHORS)
        self.dynamic_out = nn.Linear(HIDDEN, outputs)
        self.image_hidden = _two_layers(HIDDEN + shape.image_width)
        self.residual_out = nn.Linear(HIDDEN, outputs)
        self.register_buffer("word", word.detach().clone(), persistent=False)
        with torch.no_grad():
            self.time_input.weight.copy_(time_features(_anchors(bounds)))

    def forward(self, t: Tensor, image_embedding: Tensor) -> tuple[Tensor, Tensor]:
        """t: (B,) in training timesteps; image_embedding: (B, e). Returns dynamic and residual, each (B, n, w).

        Every dynamic token has the norm of the word's embedding; for several text encoders, each part has its own.
        """
        tokens, width = self.shape.tokens, self.shape.text_width
        hidden = self.time_hidden(self.time_input(time_features(t.to(self.word.dtype))))  # (B, 128)
        shifted = self.dynamic_out(hidden).unflatten(-1, (tokens, width)) + self.word
        parts = self.shape.encoder_widths or (width,)
        pairs = zip(shifted.split(parts, dim=-1), self.word.split(parts), strict=True)
        dynamic = torch.cat([keep_length(*pair) for pair in pairs], dim=-1)
        seen = self.image_hidden(torch.cat([hidden, image_embedding.to(hidden.dtype)], dim=-1))  # (B, 128)
        residual = self.residual_out(seen).unflatten(-1, (tokens, width))
        return dynamic, residual


def fresh(
    word: Tensor, image_embedding: Tensor, settings: LearnSettings, encoder_widths: tuple[int, ...] = ()
) -> Mapper:
    """An untrained mapper, initialized from the settings' seed.

    word: (w,). image_embedding: (P, e), which gives the width, type and device. encoder_widths: see MapperShape.
    """
    assert settings.bounds is not None  # the probe has set them
    shape = MapperShape(settings.tokens, len(word), image_embedding.shape[-1], encoder_widths)
    word = word.to(image_embedding.dtype)
    with randomness.seeded_weights(settings.seed):
        return Mapper(shape, word.cpu(), settings.bounds).to(image_embedding.device, image_embedding.dtype)


def count_weights(shape: MapperShape) -> int:
    """The number of trainable values of a mapper of this shape; nothing is allocated."""
    with torch.device("meta"):
        mapper = Mapper(shape, torch.empty(shape.text_width), REFERENCE_BOUNDS)
    return sum(weight.numel() for weight in mapper.parameters())


def _two_layers(inputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN),
        nn.LayerNorm(HIDDEN),
        nn.LeakyReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.LayerNorm(HIDDEN),
        nn.LeakyReLU(),
    )


def _anchors(bounds: StageBounds) -> Tensor:
    """200 timesteps spread evenly over [low, high): 400, 402, ..., 798 for the reference bounds."""
    return bounds.low + torch.arange(ANCHORS, dtype=torch.float64) * (bounds.high - bounds.low) / ANCHORS
