"""Trains the miniature's CLIPSeg: the mask of a face, a cat or a cup; the mask is empty if the word is not shown.

    python -m pmagic.mini.train_clipseg WORK --minutes 10

Unlike the published CLIPSeg, its towers are trained together with the decoder, because the exact masks are known here.
"""

# B batch

import argparse
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPTokenizer

from pmagic.mini import corpus, vocabulary
from pmagic.mini.training import Run, autocast
from pmagic.vision.clipseg import PHRASINGS
from pmagic.world.scenes import OPENINGS

# In pixels. Masks are smooth, and small patches are learned fastest. Faces of world 2 may be small.
SIDES, PATCH = {1: 32, 2: 48}, 4
BATCH, WORDS = 16, 3  # pictures, and words per picture: small batches, as many steps train the towers faster
RATE = 4e-4
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # the published CLIPSeg's
FACE = ("face", "face", "face", "person", "portrait", "man", "woman", "character")  # words that all mean the face
THINGS = ("cat", "cup")
SURROUNDINGS = ("beach", "snow", "jungle", "city", "sky", "library", "desert", "space", "background", "hat", "scenery")
ASKED_RIGHT = 0.6  # share of the words that name what the picture shows


def network(tokenizer: CLIPTokenizer, version: int = 1) -> CLIPSegForImageSegmentation:
    """version: of the world."""
    cells = SIDES[version] // PATCH
    special = {each: getattr(tokenizer, each) for each in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = cast(Any, CLIPSegConfig)(  # its signature also includes the arguments of every configuration
        attn_implementation="eager",  # the fused attention's backward pass is slow on a CPU in bfloat16
        projection_dim=64, extract_layers=[1, 2, 3], reduce_dim=64, decoder_num_attention_heads=4,
        decoder_intermediate_size=128,
        vision_config={
            "image_size": SIDES[version], "patch_size": PATCH, "hidden_size": 128, "intermediate_size": 384,
            "num_hidden_layers": 4, "num_attention_heads": 4,
        },
        text_config={
            **special, "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": vocabulary.LENGTH,
        },
    )  # fmt: skip
    torch.manual_seed(6)
    model = CLIPSegForImageSegmentation(config)
    decoder = model.decoder  # the library initialises these with a deviation of 1, from which nothing is learned
    for layer in (decoder.film_mul, decoder.film_add, *decoder.reduces):
        nn.init.xavier_uniform_(cast(nn.Linear, layer).weight)
    nn.init.ones_(decoder.film_mul.bias)
    nn.init.normal_(cast(nn.ConvTranspose2d, decoder.transposed_convolution).weight, std=0.05)
    with torch.no_grad():
        positions = model.clip.vision_model.embeddings.position_embedding.weight
        positions[1:] = 0.6 * waves(cells, positions.shape[1])
    return model


def waves(side: int, width: int) -> Tensor:
    """Sines and cosines of a square's rows and columns, from which a tower learns neighbourhoods soonest.

    Shape (side * side, width).
    """
    rates = 0.01 ** (torch.arange(width // 4) / (width // 4))
    line = torch.arange(side)[:, None] * rates  # (side, width / 4)
    along = torch.cat([line.sin(), line.cos()], dim=1)
    rows, columns = along[:, None].expand(-1, side, -1), along[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


def logits(model: CLIPSegForImageSegmentation, pixels: Tensor, ids: Tensor) -> Tensor:
    """The library's forward pass, with gradients for both towers and several texts per picture: (texts, side, side).

    pixels: (B, 3, side, side). ids: (texts, length), equally many for each picture, those of the first picture first.
    """
    hidden = model.clip.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states
    words = model.clip.text_projection(model.clip.text_model(input_ids=ids).pooler_output)
    each = len(ids) // len(pixels)
    return model.decoder([hidden[i + 1].repeat_interleave(each, dim=0) for i in model.extract_layers], words).logits


class Questions:
    """Pictures of the corpus, several words for each, and the correct mask of each word: a face, a thing, or both."""

    def __init__(self, work: Path, seed: int) -> None:
        self.data, self.rng = corpus.load(work / "corpus"), np.random.default_rng(seed)
        pairs = zip(self.data.captions, self.data.landmarks, self.data.things, strict=True)
        self.shown = [_find_shown(text, marks, things.any()) for text, marks, things in pairs]
        faces = np.array([each == ("face",) for each in self.shown])
        self.share = np.where(faces, 0.7 / faces.sum(), 0.3 / (~faces).sum())  # things more often than in the corpus

    def batch(self) -> tuple[Tensor, list[str], Tensor]:
        """Pixels (B, 3, side, side) in CLIPSeg's statistics; B * WORDS texts and masks (., side, side) in [0, 1]."""
        rows = np.sort(self.rng.choice(len(self.shown), BATCH, p=self.share))
        masks = [torch.from_numpy(each[rows]).float()[:, None] / 255 for each in (self.data.masks, self.data.things)]
        both = torch.cat([normalise(self.data.images[rows]), *masks], dim=1)  # (B, 5, side, side)
        if self.rng.random() < 0.5:
            both = both.flip(-1)
        side = both.shape[-1]
        if self.rng.random() < 0.5:  # crop, so that the content appears larger
            size = int(self.rng.integers(side * 5 // 8, side))
            y, x = (int(v) for v in self.rng.integers(0, side - size, 2))
            both = both[..., y : y + size, x : x + size]
        both = F.interpolate(both, size=SIDES[self.data.version], mode="bilinear", antialias=True)
        pixels = both[:, :3] * float(self.rng.uniform(0.85, 1.15)) + float(self.rng.uniform(-0.2, 0.2))
        asked = [(i, self._word(self.shown[row])) for i, row in enumerate(rows) for _ in range(WORDS)]
        answers = torch.stack([self._mask(both[i], self.shown[rows[i]], word) for i, word in asked])
        return pixels, [self._phrase(word) for _, word in asked], answers

    def _mask(self, picture: Tensor, shown: tuple[str, ...], word: str) -> Tensor:
        """The mask of a word in a picture (5, side, side) that includes both masks; empty if it is not shown."""
        meant = _means(word)
        return picture[3 if meant == "face" else 4] * float(meant in shown)

    def _word(self, shown: tuple[str, ...]) -> str:
        if shown and self.rng.random() < ASKED_RIGHT:
            each = str(self.rng.choice(shown))
            return str(self.rng.choice(FACE)) if each == "face" else each
        return str(self.rng.choice((str(self.rng.choice(FACE)), *THINGS, str(self.rng.choice(SURROUNDINGS)))))

    def _phrase(self, word: str) -> str:
        if self.rng.random() < 0.2:
            return f"{self.rng.choice(OPENINGS)} a {word}"
        return str(self.rng.choice(PHRASINGS)).format(word)


def _find_shown(caption: str, landmarks: list, with_thing: bool) -> tuple[str, ...]:
    """The maskable objects in a picture. A caption of a thing always names it, unless the picture is a painting."""
    thing = tuple(each for each in THINGS if with_thing and f" {each}" in caption)
    return (("face",) if landmarks else ()) + thing


def _means(word: str) -> str:
    return "face" if word in FACE else word


def normalise(images: np.ndarray) -> Tensor:
    """Normalise (B, H, W, 3) uint8 by CLIPSeg's statistics: (B, 3, H, W)."""
    raw = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (raw - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def train(work: Path, minutes: float) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(work / "base" / "tokenizer")
    version = corpus.load(work / "corpus").version
    run = Run(work, "clipseg", network(tokenizer, version), minutes, RATE, decay=0.998)
    questions = Questions(work, seed=run.steps)
    while run.going:
        pixels, texts, masks = questions.batch()
        ids = tokenizer(texts, padding=True, return_tensors="pt").input_ids
        with autocast():
            found = logits(run.model, pixels, ids).float()
        probable = found.sigmoid()
        overlap = (2 * (probable * masks).sum((1, 2)) + 1) / ((probable + masks).sum((1, 2)) + 1)
        entropy = F.binary_cross_entropy_with_logits(found, masks)
        run.step({"entropy": 2 * entropy, "overlap": 0.5 * (1 - overlap).mean()})
    export(work)


def export(work: Path) -> None:
    """Write WORK/clipseg: float16 safetensors, tokenizer, pixel statistics."""
    tokenizer = CLIPTokenizer.from_pretrained(work / "base" / "tokenizer")
    version = corpus.load(work / "corpus").version
    side = SIDES[version]
    model = Run(work, "clipseg", network(tokenizer, version), 1, RATE).average.eval()
    model.half().save_pretrained(work / "clipseg", safe_serialization=True)
    tokenizer.save_pretrained(work / "clipseg")
    statistics = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": side, "width": side},
        "do_rescale": True, "do_normalize": True, "image_mean": MEAN, "image_std": STD, "resample": 3,
    }  # fmt: skip
    (work / "clipseg" / "preprocessor_config.json").write_text(json.dumps(statistics, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--export", action="store_true", help="only write the folder from the last saved state")
    arguments = parser.parse_args()
    if arguments.export:
        export(arguments.work)
    else:
        train(arguments.work, arguments.minutes)
