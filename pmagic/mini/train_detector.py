"""Trains the miniature's face detector: boxes and five landmarks in the nine outputs of SCRFD (Guo et al. 2021).

    python -m pmagic.mini.train_detector WORK --minutes 12

One small network detects faces of 16 to 72 pixels. It runs on the input at a half, a quarter and an eighth of its size,
which gives SCRFD's strides of 8, 16 and 32. It is therefore trained at only one of these scales, on small canvases, and
finds a face at any size of the input.
"""

# B batch . h, w cells of the grid . A anchors a cell

import argparse
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pmagic.mini import corpus, gallery
from pmagic.mini.training import Run, autocast, in_memory_order

PACKS = ("faces_a", "faces_b")
CANVAS = 80  # pixels of a training picture, as the network receives it
CELL = 4  # in these pixels: 8, 16 and 32 of the input at half, quarter and eighth size
SIZES = ((12.0, 36.0), (28.0, 80.0))  # heights of the faces that each anchor is responsible for; both in the overlap
UNIT = (5.0, 10.0)  # in cells: the unit of an anchor's distances
BATCH = 64
FACELESS = 0.2  # share of the batch that is deliberately drawn without faces
RATE = 3e-3
SURE = 3.5  # the log-odds threshold that separates faces (above) from all else (below) on training people
SETTLING = 40  # batches from which an averaged network computes its batch statistics


class Finder(nn.Module):
    """(B, 3, H, W) around [-1, 1] to (B, A * 15, H / 4, W / 4): for each anchor a logit, 4 distances, 5 points."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        )  # fmt: skip
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, 1, d, d, bias=False), nn.BatchNorm2d(width), nn.ReLU())
            for d in (1, 2, 4, 1, 2, 4)  # the receptive field is 119 pixels
        )
        self.head = nn.Conv2d(width, len(SIZES) * 15, 1)
        with torch.no_grad():
            self.biases[:, 0] = -4.0  # faces are rare
            self.biases[:, 1:5] = 1.0

    @property
    def biases(self) -> Tensor:
        """The last layer's biases, by anchor: (A, 15)."""
        return cast(Tensor, self.head.bias).view(len(SIZES), 15)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)


class Detector(nn.Module):
    """The exported network: the finder at three scales, with outputs in SCRFD's order and units."""

    def __init__(self, finder: Finder) -> None:
        super().__init__()
        self.finder = finder

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(1, 3, H, W), (pixel - 127.5) / 128, to scores, boxes and points of strides 8, 16, 32: (cells * A, .)."""
        answers = [rows(self.finder(F.avg_pool2d(x, shrink)))[0] for shrink in (2, 4, 8)]
        scores = (a[:, :, :1].sigmoid() for a in answers)
        return tuple(
            part.reshape(-1, part.shape[-1])
            for part in (*scores, *(a[:, :, 1:5] for a in answers), *(a[:, :, 5:] for a in answers))
        )


def rows(answer: Tensor) -> Tensor:
    """(B, A * 15, h, w) to (B, cells, A, 15) with distances and points in cells."""
    flat = answer.flatten(2).transpose(1, 2).unflatten(-1, (len(SIZES), 15)).float()
    unit = torch.tensor(UNIT).view(1, 1, -1, 1)
    return torch.cat([flat[..., :1], flat[..., 1:] * unit], dim=-1)


class Canvases:
    """Pictures of both sets at random sizes and places on canvases, with the finder's target for each cell."""

    def __init__(self, work: Path, seed: int) -> None:
        self.data, self.sharp = corpus.load(work / "corpus"), gallery.load(work / "gallery")
        self.rng = np.random.default_rng(seed)
        counts = np.array([len(each) for each in self.data.landmarks])
        self.empty, self.full = np.flatnonzero(counts == 0), np.flatnonzero(counts > 0)
        self.empty_sharp = [k for k, boxes in enumerate(self.sharp.boxes) if len(boxes) == 0]
        edge = np.arange(0, CANVAS, CELL, dtype=np.float32)
        self.cells = np.stack(np.meshgrid(edge, edge), axis=-1).reshape(-1, 2)  # (cells, 2): x, y of their corners

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, side, side); (B, cells, A): 1 face, 0 none, -1 either; (B, cells, A, 14): distances, points."""
        made = [self._canvas() for _ in range(BATCH)]
        pictures, states, places = (np.stack(each) for each in zip(*made, strict=True))
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        noise = torch.from_numpy(self.rng.uniform(0, 0.05, (BATCH, 1, 1, 1))).float()
        return x + torch.randn_like(x) * noise, torch.from_numpy(states), torch.from_numpy(places)

    def _picture(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A picture with its boxes (faces, 4) and points (faces, 10), in shares of its side."""
        faceless = self.rng.random() < FACELESS
        if self.rng.random() < 0.5:
            k = int(self.rng.choice(self.empty_sharp) if faceless else self.rng.integers(len(self.sharp.boxes)))
            return self.sharp.images[k], self.sharp.boxes[k], self.sharp.landmarks[k].reshape(-1, 10)
        k = int(self.rng.choice(self.empty if faceless else self.full))
        landmarks = self.data.landmarks[k]
        boxes = gallery.boxes_of(landmarks, self.data.scenes[k])
        return self.data.images[k], boxes, np.array(landmarks, np.float32).reshape(-1, 10)

    def _canvas(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        picture, boxes, points = self._picture()
        side = round(float(np.exp(self.rng.uniform(np.log(24), np.log(340)))))
        shrinks = side < len(picture)
        picture = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        if self.rng.random() < 0.15:
            picture = cv2.GaussianBlur(picture, (0, 0), float(self.rng.uniform(0.4, 1.2)))
        free = CANVAS - side  # a small picture lies inside the canvas, a large one extends beyond it
        x, y = (int(self.rng.integers(min(0, free), max(0, free) + 1)) for _ in range(2))
        if self.rng.random() < 0.4:
            x, y = (0, 0) if free > 0 else (free // 2, free // 2)  # insightface's corner, or the middle
        canvas = np.full((CANVAS, CANVAS, 3), 0 if self.rng.random() < 0.7 else int(self.rng.integers(256)), np.uint8)
        canvas[max(y, 0) : y + side, max(x, 0) : x + side] = picture[max(-y, 0) : CANVAS - y, max(-x, 0) : CANVAS - x]
        light = self.rng.uniform(0.8, 1.2) * self.rng.uniform(0.93, 1.07, 3)
        raw = (canvas * light.astype(np.float32) + float(self.rng.uniform(-20, 20)) - 127.5) / 128
        shift = np.array([x, y], np.float32)
        return raw.astype(np.float32), *self._truth(boxes * side + np.tile(shift, 2), points * side + np.tile(shift, 5))

    def _truth(self, boxes: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        states = np.zeros((len(self.cells), len(SIZES)), np.int64)
        places = np.zeros((len(self.cells), len(SIZES), 14), np.float32)
        middle = self.cells + CELL / 2
        for box, point in zip(boxes, points, strict=True):
            size = box[2:] - box[:2]
            away = np.abs(middle - (box[:2] + box[2:]) / 2) / size  # (cells, 2)
            inside, centre = (away < 0.42).all(axis=1), (away < np.maximum(0.16, 0.6 * CELL / size)).all(axis=1)
            cut = np.clip(np.minimum(box[2:], CANVAS) - np.maximum(box[:2], 0), 0, None).prod() / size.prod()
            for anchor, (low, high) in enumerate(SIZES):
                if cut < 0.3 or not 0.75 * low <= size[1] <= 1.15 * high:
                    continue  # a face that is mostly cut off, or of another scale, is not a target here
                states[inside, anchor] = -1
                if cut > 0.75 and low <= size[1] <= high:
                    states[centre, anchor] = 1
                    corner = self.cells[centre]
                    distances = np.concatenate([corner - box[:2], box[2:] - corner], axis=1)
                    places[centre, anchor] = np.concatenate([distances, point - np.tile(corner, (1, 5))], axis=1) / CELL
        return states, places


def losses(answer: Tensor, states: Tensor, places: Tensor) -> dict[str, Tensor]:
    """Focal loss on the cells without a face (Lin et al. 2017), IoU loss on boxes, point loss by box height."""
    logits, found = answer[..., 0], answer[..., 1:]
    face, none = states == 1, states == 0
    count = face.sum().clamp(min=1)
    missed = F.softplus(-logits[face]).sum() / count
    false = (logits[none].sigmoid().square() * F.softplus(logits[none])).sum() / count
    box, truth = found[face][:, :4].clamp(min=0.01), places[face][:, :4]
    both = _area(torch.minimum(box, truth))
    either = _area(box) + _area(truth) - both
    height = (truth[:, 1] + truth[:, 3])[:, None]
    return {
        "missed": missed,
        "false": 2 * false,
        "box": -(both / either).clamp(min=1e-3).log().sum() / count,
        "points": 10 * ((found[face][:, 4:] - places[face][:, 4:]).abs() / height).mean(dim=1).sum() / count,
    }


def _area(distances: Tensor) -> Tensor:
    """Areas of boxes given by their four distances from a point inside: (count, 4) to (count,)."""
    return (distances[:, 0] + distances[:, 2]) * (distances[:, 1] + distances[:, 3])


def open_run(work: Path, minutes: float) -> Run[Finder]:
    torch.manual_seed(4)
    return Run(work, "detector", in_memory_order(Finder(), torch.channels_last), minutes, RATE, decay=0.995)


def train(work: Path, minutes: float) -> None:
    gallery.make(work / "gallery", 20_000)
    run = open_run(work, minutes)
    canvases = Canvases(work, seed=run.steps)
    run.model.train()
    while run.going:
        x, states, places = canvases.batch()
        with autocast():
            answer = run.model(x.contiguous(memory_format=torch.channels_last))
        run.step(losses(rows(answer), states, places))
    export(work)


@torch.no_grad()
def average_network(run: Run[Finder], canvases: Canvases) -> Finder:
    """The averaged network with recomputed batch statistics, which averaging the weights does not provide."""
    finder = run.average.train()
    for _ in range(SETTLING):
        finder(canvases.batch()[0])
    return finder.eval()


def export(work: Path) -> None:
    """Write detector.onnx into both packs: any height and width, nine outputs."""
    finder = in_memory_order(average_network(open_run(work, 1), Canvases(work, seed=0)), torch.contiguous_format)
    with torch.no_grad():
        finder.biases[:, 0] -= SURE  # so that insightface's threshold of 0.5 is at `SURE`
    kinds = [f"{kind}_{stride}" for kind in ("score", "box", "points") for stride in (8, 16, 32)]
    for pack in PACKS:
        (work / pack).mkdir(parents=True, exist_ok=True)
        torch.onnx.export(
            Detector(finder).eval(), (torch.zeros(1, 3, 128, 128),), str(work / pack / "detector.onnx"),
            opset_version=17, dynamo=False, input_names=["picture"], output_names=kinds,
            dynamic_axes={"picture": {2: "height", 3: "width"}, **{kind: {0: f"{kind}_rows"} for kind in kinds}},
        )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--export", action="store_true", help="only write the ONNX files from the last saved state")
    arguments = parser.parse_args()
    if arguments.export:
        export(arguments.work)
    else:
        train(arguments.work, arguments.minutes)
