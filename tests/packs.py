"""Tiny face packs and CLIPSeg folders in the libraries' own formats, with known answers.

The detector takes each pure red 8 x 8 block of a 128 x 128 picture for a face; recognisers and CLIPSeg are random.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

BOX = (1.0, 1.5, 2.0, 2.5)  # how far a face reaches to the left, top, right and bottom, in cells of 8 pixels
LANDMARKS = ((0.0, 0.0), (1.0, 0.0), (0.5, 0.5), (0.1, 1.0), (0.9, 1.0))  # in cells


class RedBlocks(nn.Module):
    """SCRFD's nine outputs for an input of 128 x 128; only the first anchor of stride 8 finds faces."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        cells = F.avg_pool2d(x, 8)  # (1, 3, 16, 16)
        score = torch.sigmoid(20 * (cells[:, 0] - cells[:, 1] - 1)).reshape(-1, 1)
        scores = torch.stack([score, torch.zeros_like(score)], dim=1).reshape(-1, 1)
        rows = [512, 128, 32]  # cells times anchors at strides 8, 16, 32
        nothing = [torch.zeros(count, 1) for count in rows[1:]]
        boxes = [torch.tensor(BOX).expand(count, 4).clone() for count in rows]
        points = [torch.tensor(LANDMARKS).reshape(1, 10).expand(count, 10).clone() for count in rows]
        return scores, *nothing, *boxes, *points


class Block(nn.Module):
    """ArcFace's improved residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width),
            nn.PReLU(width), nn.Conv2d(width, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.shortcut = nn.Sequential(nn.Conv2d(width, width, 1, 2, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


def iresnet() -> nn.Module:
    """A small copy of the files in insightface's packs."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.PReLU(8), Block(8), Block(8), Block(8), Block(8),
        nn.BatchNorm2d(8), nn.Dropout(0.4), nn.Flatten(), nn.Linear(8 * 49, 16), nn.BatchNorm1d(16),
    )  # fmt: skip


class Mobile(nn.Module):
    """A recogniser of another kind: depthwise layers, uneven pooling and a reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.AvgPool2d(3, 2, padding=1, count_include_pad=False), nn.Conv2d(3, 12, 5, 4, 2), nn.ReLU6(),
            nn.Conv2d(12, 12, 3, 2, 1, groups=12), nn.LeakyReLU(0.2), nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip
        self.last = nn.Parameter(torch.randn(12, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).reshape(-1, 12) @ self.last


class Embedded(nn.Module):
    """Takes pixels 0 to 255 and normalises them itself, in nodes that are named accordingly."""

    def __init__(self) -> None:
        super().__init__()
        self.body = iresnet()

    def forward(self, x: Tensor) -> Tensor:
        return self.body((x - 127.5) * 0.0078125)


def build_pack(folder: Path, recogniser: nn.Module | None = None, seed: int = 3) -> Path:
    """A folder with detector.onnx and recogniser.onnx."""
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    recogniser = recogniser if recogniser is not None else iresnet()
    for module in recogniser.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):  # as after training, not as initialised
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
    _export(RedBlocks(), torch.zeros(1, 3, 128, 128), folder / "detector.onnx")
    _export(recogniser.eval(), torch.zeros(1, 3, 112, 112), folder / "recogniser.onnx")
    return folder


def photo_of(*cells: tuple[int, int]) -> Image.Image:
    """A 128 x 128 picture with a face at each (column, row) of its 16 x 16 cells, on black with a dim pattern."""
    pixels = np.random.default_rng(5).integers(0, 60, (128, 128, 3), dtype=np.uint8)
    for column, row in cells:
        pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = (255, 0, 0)
    return Image.fromarray(pixels)


def build_clipseg(folder: Path, tokenizer: Any) -> Path:
    """A random CLIPSegForImageSegmentation folder that reads 32 x 32 pixels."""
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    torch.manual_seed(9)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    config = CLIPSegConfig(
        text_config={**tower, **special, "vocab_size": len(tokenizer)},
        vision_config={**tower, "image_size": 16, "patch_size": 8},
        projection_dim=12, extract_layers=[0, 1], reduce_dim=8, decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )  # fmt: skip
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    statistics = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics))
    return folder


def _export(module: nn.Module, example: Tensor, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own warnings, about its age and constants
        torch.onnx.export(module, (example,), str(path), opset_version=17, dynamo=False)
    model = onnx.load(str(path))
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"  # as older exporters wrote them; insightface looks at the names
    onnx.save(model, str(path))
