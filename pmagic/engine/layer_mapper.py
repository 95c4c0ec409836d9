"""The mapper of NeTI (Alaluf et al. 2023): from timestep and cross-attention layer to a token and a bypass vector.

It knows nothing about prompts or text encoders, only about widths and the embedding of one word.
"""

# B batch . L cross-attentions of the UNet . w text width

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pmagic.engine import randomness

if TYPE_CHECKING:
    from pmagic.engine.training import TrainingContext

FREQUENCIES = 1024
SPREAD = (0.03, 2.0)  # standard deviations of the frequencies of t and of the layer
ANCHORS = 10  # timesteps at which the encoding of each layer initializes the input layer
HIDDEN = 128
NESTED_DROPOUT = 0.5
TIMESTEPS = 1000


def draw_frequencies(seed: int) -> Tensor:
    """R, the random frequencies of timestep and layer: (1024, 2) in float32. They are not trained."""
    source = randomness.generator(seed, "frequencies")
    return torch.randn(FREQUENCIES, 2, generator=source) * torch.tensor(SPREAD)


def position_features(t: Tensor, layer: Tensor, frequencies: Tensor) -> Tensor:
    """f(t, l) = [sin(R (t, l)), cos(R (t, l))] / |.|, with t and l as they are: (N,), (N,) -> (N, 2048)."""
    angles = torch.stack([t, layer], dim=-1) @ frequencies.T
    return torch.cat([angles.sin(), angles.cos()], dim=-1) / FREQUENCIES**0.5


class LayerMapper(nn.Module):
    """[u, v] = normalize(MLP(f(t, l))) |word|, u the token and v the bypass vector of layer l at timestep t.

    word: (w,), the frozen token embedding of the super-category word. frequencies: (1024, 2). In training, the hidden
    values are cut to the first few of each row (nested dropout), as `before_step` says.
    """

    word: Tensor
    frequencies: Tensor
    kept: Tensor  # (B, L), how many hidden values each row keeps

    def __init__(self, word: Tensor, layers: int, frequencies: Tensor, batch: int = 1) -> None:
        super().__init__()
        self.layers = layers
        time_input = nn.Linear(2 * FREQUENCIES, ANCHORS * layers)
        self.net = nn.Sequential(time_input, *_layer(ANCHORS * layers), *_layer(HIDDEN))
        self.output_layer = nn.Linear(HIDDEN, 2 * len(word))
        self.register_buffer("word", word.detach().clone(), persistent=False)
        self.register_buffer("frequencies", frequencies.to(word), persistent=False)
        self.register_buffer("kept", torch.full((batch, layers), HIDDEN), persistent=False)
        self.to(word)
        t = torch.arange(0, TIMESTEPS, TIMESTEPS // ANCHORS).to(word).repeat_interleave(layers)
        with torch.no_grad():
            anchors = position_features(t, torch.arange(layers).to(word).repeat(ANCHORS), self.frequencies)
            time_input.weight.copy_(anchors)  # (10 L, 2048), t outside and l inside

    def forward(self, t: Tensor, image_embedding: Tensor) -> tuple[Tensor, None, Tensor]:
        """t: (B,) in training timesteps. Returns tokens (B, L, 1, w), no residual, and bypass vectors (B, L, 1, w)."""
        rows = t.to(self.word).repeat_interleave(self.layers)  # (B * L,)
        layer = torch.arange(self.layers, device=t.device).to(self.word).repeat(len(t))
        kept = self.kept.flatten() if self.training else None
        tokens, bypass = self.vectors(rows, layer, kept)
        return tokens.view(len(t), self.layers, 1, -1), None, bypass.view(len(t), self.layers, 1, -1)

    def vectors(self, t: Tensor, layer: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """u and v, (N, w) each, which together have the length of the word's embedding.

        kept: (N,) or (1,), how many of the 128 hidden values stay; None for all.
        """
        hidden = self.net(position_features(t, layer, self.frequencies))  # (N, 128)
        if kept is not None:
            hidden = hidden * (torch.arange(HIDDEN, device=hidden.device) < kept[:, None])
        both = nn.functional.normalize(self.output_layer(hidden), dim=-1) * self.word.norm()
        token, bypass = both.chunk(2, dim=-1)
        return token, bypass

    def before_step(self, context: "TrainingContext", sample: randomness.StepSample, step: int) -> None:
        """Draw which hidden values optimizer step `step` keeps; its random values follow from (seed, step) alone.

        With probability NESTED_DROPOUT, a layer cuts each of its rows to the first k values, k uniform in 0 to 127.
        """
        source = randomness.generator(context.settings.seed, "nested dropout", step)
        cuts = torch.rand(self.layers, generator=source) < NESTED_DROPOUT
        kept = torch.randint(0, HIDDEN, self.kept.shape, generator=source)
        self.kept.copy_(torch.where(cuts, kept, HIDDEN))


def count_weights(width: int, layers: int) -> int:
    """The number of trainable values; nothing is allocated."""
    with torch.device("meta"):
        mapper = LayerMapper(torch.empty(width), layers, torch.empty(FREQUENCIES, 2))
    return sum(weight.numel() for weight in mapper.parameters())


def _layer(inputs: int) -> tuple[nn.Module, ...]:
    return nn.Linear(inputs, HIDDEN), nn.LayerNorm(HIDDEN), nn.LeakyReLU()
