"""Trains the miniature's two face recognisers: aligned 112 x 112 crops to 128 numbers, as in insightface packs.

    python -m pmagic.mini.train_recognisers WORK --which a --minutes 14

A is a small iresnet trained with the ArcFace margin, for the identity loss. B is a plain residual network with another
seed, trained with the CosFace margin, and is used for evaluation only.
"""

# B batch . E embedding width . N people

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pmagic.mini import corpus, gallery
from pmagic.mini.training import Run, autocast, in_memory_order
from pmagic.vision.recogniser import SIDE, align

WIDTH = 128
FROM_CORPUS, FROM_GALLERY = 72, 24  # pictures per batch
RATE = 2e-3
SETTLING = 40  # batches from which an averaged network computes its batch statistics
SCALE = 24.0  # scale of the cosines; 64 suits a hundred times more people
MARGIN_SHARE = 0.2  # share of the training over which the margin grows to its full size
JITTER = 0.012  # standard deviation of a landmark, in shares of the picture's side


class PlainBlock(nn.Module):
    """Two convolutions and a shortcut (He et al. 2016)."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.shortcut = _shortcut(before, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class MarginBlock(nn.Module):
    """The block of ArcFace's improved residual network: normalisation first, one PReLU (Deng et al. 2019)."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(before), nn.Conv2d(before, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width),
            nn.PReLU(width), nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.shortcut = _shortcut(before, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


def _shortcut(before: int, width: int, stride: int) -> nn.Module:
    if before == width and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))


def iresnet() -> nn.Sequential:
    """Recogniser A, after `halved`."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 5, 2, 2, bias=False), nn.BatchNorm2d(32), nn.PReLU(32),
        MarginBlock(32, 32, 1), MarginBlock(32, 64, 2), MarginBlock(64, 64, 1), MarginBlock(64, 128, 2),
        MarginBlock(128, 128, 1), nn.Conv2d(128, 32, 1, bias=False), nn.BatchNorm2d(32), nn.Flatten(),
        nn.Linear(32 * 7 * 7, WIDTH), nn.BatchNorm1d(WIDTH),
    )  # fmt: skip


def resnet() -> nn.Sequential:
    """Recogniser B, after `halved`."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 5, 2, 2, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        PlainBlock(32, 32, 1), PlainBlock(32, 64, 2), PlainBlock(64, 64, 1), PlainBlock(64, 128, 2),
        PlainBlock(128, 128, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, WIDTH),
    )  # fmt: skip


# The first layer of both: drawings have no more than 56 x 56 pixels of detail. Training halves before augmentation.
halved = nn.AvgPool2d(2)


def arcface(cosines: Tensor, who: Tensor, share: float) -> Tensor:
    """Logits (B, N) with the angle to the person's own direction enlarged by up to 0.3 (Deng et al. 2019, Eq. 3)."""
    own = cosines.gather(1, who[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
    return SCALE * cosines.scatter(1, who[:, None], (own.acos() + 0.3 * share).cos())


def cosface(cosines: Tensor, who: Tensor, share: float) -> Tensor:
    """Logits (B, N) with the person's own cosine reduced by up to 0.25 (Wang et al. 2018, Eq. 4)."""
    return SCALE * (cosines - 0.25 * share * F.one_hot(who, cosines.shape[1]))


KINDS: dict[str, tuple[Callable[[], nn.Sequential], Callable[[Tensor, Tensor, float], Tensor], int]] = {
    "a": (iresnet, arcface, 1),  # network, margin, seed
    "b": (resnet, cosface, 2),
}


class Margin(nn.Module):
    """A recogniser with one direction per person of the training set."""

    def __init__(self, which: str) -> None:
        super().__init__()
        network, self.margin, seed = KINDS[which]
        torch.manual_seed(seed)
        self.recogniser = network()
        self.directions = nn.Parameter(torch.randn(gallery.PEOPLE, WIDTH) * 0.05)

    def loss(self, crops: Tensor, who: Tensor, share: float) -> Tensor:
        embedding = self.recogniser(crops).float()
        cosines = F.normalize(embedding, dim=-1) @ F.normalize(self.directions.float(), dim=-1).T
        return F.cross_entropy(self.margin(cosines, who, min(1.0, share / MARGIN_SHARE)), who)


class Portraits:
    """Random aligned crops of both sets of pictures, as a detector's landmarks would give them."""

    def __init__(self, work: Path, seed: int) -> None:
        self.data, self.sharp = corpus.load(work / "corpus"), gallery.load(work / "gallery")
        self.rng = np.random.default_rng(seed)
        self.alone = np.flatnonzero((self.data.people >= 0) & (self.data.people < gallery.PEOPLE))
        self.landmarks = np.array([self.data.landmarks[k][0] for k in self.alone], np.float32)
        often = np.bincount(self.data.people[self.alone])[self.data.people[self.alone]]
        self.share = often**-0.5 / (often**-0.5).sum()  # ten times the pictures: three times as often
        self.faces = [(k, i) for k, people in enumerate(self.sharp.people) for i in range(len(people))]

    def batch(self) -> tuple[Tensor, Tensor]:
        """Halved crops (B, 3, 56, 56) around [-1, 1] and the seeds of the people: (B,)."""
        few = np.sort(self.rng.choice(len(self.alone), FROM_CORPUS, p=self.share))
        rows = self.alone[few]
        soft = self._crops(self.data.images[rows], self.landmarks[few])
        chosen = sorted(self.faces[k] for k in self.rng.integers(0, len(self.faces), FROM_GALLERY))
        pictures = np.stack([self.sharp.images[k] for k, _ in chosen])
        sharp = self._crops(pictures, np.stack([self.sharp.landmarks[k][i] for k, i in chosen]))
        who = [*self.data.people[rows], *(self.sharp.people[k][i] for k, i in chosen)]
        return self._spoil(torch.cat([soft, sharp])), torch.tensor(np.array(who))

    def _crops(self, pictures: np.ndarray, landmarks: np.ndarray) -> Tensor:
        moved = landmarks + self.rng.normal(0, JITTER, landmarks.shape) * self.rng.random((len(landmarks), 1, 1))
        return halved(align(as_tensor(pictures), torch.from_numpy((moved * pictures.shape[1]).astype(np.float32))))

    def _spoil(self, x: Tensor) -> Tensor:
        """Change brightness, blur a third of the crops and add a little noise, as generated faces vary."""
        b = len(x)
        random = lambda low, high, *shape: torch.from_numpy(self.rng.uniform(low, high, shape)).float()  # noqa: E731
        x = x * random(0.85, 1.15, b, 1, 1, 1) + random(-0.1, 0.1, b, 3, 1, 1)
        blurred = torch.from_numpy(self.rng.random(b) < 0.33)
        small = F.interpolate(x[blurred], size=int(self.rng.integers(20, 50)), mode="bilinear", antialias=True)
        x[blurred] = F.interpolate(small, size=SIDE // 2, mode="bicubic")
        return x + torch.randn_like(x) * random(0, 0.06, b, 1, 1, 1)


def as_tensor(images: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def open_run(work: Path, which: str, minutes: float) -> Run[Margin]:
    model = in_memory_order(Margin(which), torch.channels_last)
    return Run(work, f"recogniser_{which}", model, minutes, RATE, decay=0.995)


def train(work: Path, which: str, minutes: float) -> None:
    gallery.make(work / "gallery", 20_000)
    run = open_run(work, which, minutes)
    portraits = Portraits(work, seed=run.steps)
    run.model.train()
    while run.going:
        crops, who = portraits.batch()
        with autocast():
            loss = run.model.loss(crops.contiguous(memory_format=torch.channels_last), who, run.share)
        run.step({"margin": loss})
    export(work, which)


@torch.no_grad()
def average_network(run: Run[Margin], portraits: Portraits) -> nn.Sequential:
    """The averaged network with recomputed batch statistics, which averaging the weights does not provide."""
    network = run.average.recogniser.train()
    for _ in range(SETTLING):
        network(portraits.batch()[0])
    return network.eval()


def export(work: Path, which: str) -> None:
    """Write WORK/faces_<which>/recogniser.onnx: input 112 x 112, one output, dynamic batch."""
    network = average_network(open_run(work, which, 1), Portraits(work, seed=0))
    network = in_memory_order(nn.Sequential(halved, *network), torch.contiguous_format)
    folder = work / f"faces_{which}"
    folder.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        network, (torch.zeros(1, 3, SIDE, SIDE),), str(folder / "recogniser.onnx"), opset_version=17, dynamo=False,
        input_names=["crop"], output_names=["embedding"],
        dynamic_axes={"crop": {0: "batch"}, "embedding": {0: "batch"}},
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--which", choices=sorted(KINDS), required=True)
    parser.add_argument("--minutes", type=float, default=14)
    parser.add_argument("--export", action="store_true", help="only write the ONNX file from the last saved state")
    arguments = parser.parse_args()
    if arguments.export:
        export(arguments.work, arguments.which)
    else:
        train(arguments.work, arguments.which, arguments.minutes)
