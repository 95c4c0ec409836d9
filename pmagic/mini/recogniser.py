"""A small face recogniser for the drawn world: whole 64 x 64 pictures to 128 numbers, trained with the CosFace margin.

python -m pmagic.mini.recogniser WORK --minutes 8
"""

# B batch

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification

from pmagic.mini import corpus
from pmagic.mini.drawing import SIDE, draw
from pmagic.mini.people import HELD_OUT, person
from pmagic.mini.scenes import rng_for, scene
from pmagic.mini.training import Run

BATCH = 96
RATE = 2e-3
WIDTH = 128
MARGIN, SCALE = 0.25, 24.0  # Wang et al. 2018, for few pictures a person
WEIGHTS = Path(__file__).parent / "weights" / "recogniser"


def network() -> ResNetForImageClassification:
    """A residual network whose 128 outputs are the embedding."""
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=32, hidden_sizes=[48, 96, 192], depths=[2, 2, 2], layer_type="basic", num_labels=WIDTH
        )
    )


class Margin(nn.Module):
    """The recogniser with one direction per person of the training set."""

    def __init__(self, people: int) -> None:
        super().__init__()
        self.recogniser = network()
        self.directions = nn.Parameter(torch.randn(people, WIDTH) * 0.05)

    def loss(self, images: Tensor, who: Tensor) -> Tensor:
        embedding = self.recogniser(images).logits.float()
        cosines = F.normalize(embedding, dim=-1) @ F.normalize(self.directions, dim=-1).T
        return F.cross_entropy(SCALE * (cosines - MARGIN * F.one_hot(who, len(self.directions))), who)


def pixels(images: np.ndarray) -> Tensor:
    """(B, 64, 64, 3) uint8 to (B, 3, 64, 64) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1


def load(folder: Path = WEIGHTS) -> ResNetForImageClassification:
    return ResNetForImageClassification.from_pretrained(folder, use_safetensors=True, dtype=torch.float32).eval()


@torch.no_grad()
def embed(recogniser: nn.Module, pictures: Sequence[Image.Image]) -> Tensor:
    """Unit embeddings, of the picture and its mirror image together: (N, 128)."""
    raw = np.stack([np.asarray(p.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for p in pictures])
    x = pixels(raw)
    return F.normalize(recogniser(x).logits + recogniser(x.flip(-1)).logits, dim=-1)


@torch.no_grad()
def verification(recogniser: nn.Module, people: int = 100) -> tuple[float, float, float]:
    """AUC, mean cosine of same and of other, between two random scenes each of held-out people, any style."""
    rngs = [rng_for(13, k) for k in range(people)]
    pairs = [[draw([(person(HELD_OUT + 1000 + k), scene(r))]).image for _ in range(2)] for k, r in enumerate(rngs)]
    first, second = (embed(recogniser, [Image.fromarray(p[i]) for p in pairs]) for i in range(2))
    cosines = first @ second.T
    same, other = cosines.diag(), cosines[~torch.eye(people, dtype=torch.bool)]
    auc = (same[:, None] > other[None]).float().mean()
    return float(auc), float(same.mean()), float(other.mean())


def _jittered(x: Tensor, rng: np.random.Generator) -> Tensor:
    """The batch moved by up to 3 pixels, perhaps mirrored, a little brighter or darker."""
    dx, dy = (int(v) for v in rng.integers(-3, 4, 2))
    x = torch.roll(F.pad(x, (3, 3, 3, 3), mode="replicate"), (dy, dx), (2, 3))[..., 3:-3, 3:-3]
    x = x.flip(-1) if rng.random() < 0.5 else x
    return x * float(rng.uniform(0.85, 1.15)) + float(rng.uniform(-0.1, 0.1))


def train(work: Path, minutes: float) -> None:
    torch.manual_seed(0)
    data = corpus.load(work / "corpus")
    alone = np.flatnonzero(data.people >= 0)
    model = Margin(corpus.PEOPLE)
    run = Run(work, "recogniser", model, minutes, RATE, decay=0.995)
    rng = np.random.default_rng(run.steps)
    while run.going:
        rows = np.sort(rng.choice(alone, BATCH))
        x = _jittered(pixels(data.images[rows]), rng)
        model.train()
        with torch.autocast("cpu", torch.bfloat16):
            run.step({"margin": model.loss(x, torch.from_numpy(data.people[rows]))})
        if run.steps % 1000 == 0:
            print("recogniser  AUC {:.3f}  same {:.2f}  other {:.2f}".format(*_checked(run, data, alone)), flush=True)
    export(work, work / "recogniser")


def _checked(run: Run, data: corpus.Corpus, alone: np.ndarray) -> tuple[float, float, float]:
    """The averaged network with batch statistics of its own (an average of weights has none), measured."""
    averaged = run.average.recogniser
    averaged.train()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for _ in range(30):
            averaged(pixels(data.images[np.sort(rng.choice(alone, BATCH))]))
    return verification(averaged.eval())


def export(work: Path, folder: Path) -> None:
    data = corpus.load(work / "corpus")
    run = Run(work, "recogniser", Margin(corpus.PEOPLE), 1, RATE)
    result = _checked(run, data, np.flatnonzero(data.people >= 0))
    print("recogniser  done: AUC {:.3f}  same {:.2f}  other {:.2f}".format(*result), flush=True)
    run.average.recogniser.half().save_pretrained(folder, safe_serialization=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=8)
    arguments = parser.parse_args()
    train(arguments.work, arguments.minutes)
