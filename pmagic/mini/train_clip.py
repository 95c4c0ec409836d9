"""Trains the miniature's CLIP, which embeds pictures and captions of the drawn world in one space.

python -m pmagic.mini.train_clip WORK --minutes 8

On a corpus of world 2, half of each batch are twins: pictures and captions that differ in the layout alone. CLIP can
distinguish them only by framing and side.
"""

# B batch . e projection width

import argparse
import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from pmagic.mini import corpus
from pmagic.mini.training import Run, autocast
from pmagic.vision.clip import PREFIX
from pmagic.world import layouts
from pmagic.world.captions import FRAMING_TAILS, SIDE_TAILS, place_words
from pmagic.world.drawing import SIDE, draw
from pmagic.world.people import HELD_OUT, person
from pmagic.world.scenes import STYLES, Scene, rng_for
from pmagic.world.snapshots import snapshot
from pmagic.world.versions import WORLDS

BATCH = 128
TWINS = 0.5  # share of a batch, on world 2
CELLS = 8  # patches along a side
RATE = 1e-3
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's own
POSITIONS = 77  # text positions, as in every CLIP
COMMON = {"hidden_act": "quick_gelu", "num_hidden_layers": 4}


def network(tokenizer: CLIPTokenizer, side: int = SIDE) -> CLIPModel:
    """side: of a picture, in pixels."""
    return CLIPModel(
        cast(Any, CLIPConfig)(  # its signature also includes the arguments of every configuration
            attn_implementation="eager",  # the fused attention's backward pass is slow on a CPU in bfloat16
            projection_dim=128,
            vision_config={
                **COMMON, "image_size": side, "patch_size": side // CELLS, "hidden_size": 192, "intermediate_size": 768,
                "num_attention_heads": 6, "projection_dim": 128,
            },
            text_config={
                **COMMON, "vocab_size": len(tokenizer), "hidden_size": 128, "intermediate_size": 512,
                "num_attention_heads": 4, "projection_dim": 128, "max_position_embeddings": POSITIONS,
                "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
            },
        )
    )  # fmt: skip


def pixels(images: np.ndarray) -> Tensor:
    """Normalise (B, side, side, 3) uint8 by CLIP's statistics: (B, 3, side, side)."""
    raw = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (raw - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def similarities(clip: CLIPModel, tokenizer: CLIPTokenizer, images: Tensor, texts: list[str]) -> Tensor:
    """Cosine similarities between every picture and every text: (B, B)."""
    ids = tokenizer(texts, padding=True, truncation=True, max_length=POSITIONS, return_tensors="pt").input_ids
    seen = clip.visual_projection(clip.vision_model(pixel_values=images).pooler_output)
    said = clip.text_projection(clip.text_model(input_ids=ids).pooler_output)
    return F.normalize(seen.float(), dim=-1) @ F.normalize(said.float(), dim=-1).T


@torch.no_grad()
def retrieval(clip: CLIPModel, tokenizer: CLIPTokenizer, count: int = 100, version: int = 1) -> float:
    """Share of held-out pictures whose own caption is the closest of `count`, range [0, 1]; chance is 1 / count."""
    world, images, texts = WORLDS[version], [], []
    for k in range(count):
        who, rng = person(HELD_OUT + k), rng_for(11, k)
        where = world.scene(rng)
        images.append(draw([(who, where)], side=world.side).image)
        texts.append(world.caption(who, where, rng, traits=True))
    best = similarities(clip, tokenizer, pixels(np.stack(images)), texts).argmax(dim=1)
    return float((best == torch.arange(count)).float().mean())


@torch.no_grad()
def layout_accuracy(clip: CLIPModel, tokenizer: CLIPTokenizer, pictures: int = 10) -> float:
    """Share of held-out snapshots whose layout is the closest of all framings and sides, range [0, 1]; chance 1 / 12.

    pictures: per layout. All sentences are the picture's own, except for the layout words.
    """
    right = []
    for k in range(pictures):
        who, where = person(HELD_OUT + 300 + k), replace(snapshot(rng_for(12, k)), style="photo")
        places = [
            replace(where, **layouts.layout(rng_for(12, k, i), *both))
            for i, both in enumerate(product(layouts.FRAMINGS, layouts.SIDES))
        ]
        images = np.stack([draw([(who, each)], side=WORLDS[2].side).image for each in places])
        words = [" ".join([STYLES["photo"], "a face", place_words(where), *layout_words(each)]) for each in places]
        best = similarities(clip, tokenizer, pixels(images), words).argmax(dim=1)
        right.append((best == torch.arange(len(places))).float().mean())
    return float(torch.stack(right).mean())


def layout_words(where: Scene) -> list[str]:
    """The final words of a caption that states the whole layout."""
    return [*FRAMING_TAILS[layouts.framing_of(where)][:1], SIDE_TAILS[layouts.side_of(where)]]


class Batches:
    """Random rows of the corpus with their captions; on world 2, twins make up `TWINS` of a batch."""

    def __init__(self, data: corpus.Corpus, rng: np.random.Generator) -> None:
        self.rng, self.words, self.layout_words = rng, data.words, data.layout_words
        both = zip(self.layout_words[::2], self.layout_words[1::2], strict=False)
        # Some twins have the same words: two people whom the caption does not name, or a place without a figure.
        self.twins = np.array([k for k, (one, other) in enumerate(both) if data.version > 1 and one != other], int)

    def next(self, size: int = BATCH) -> tuple[np.ndarray, list[str]]:
        """`size` rows and a text for each: all first twins, then all second twins, then single pictures."""
        pairs = min(int(size * TWINS) // 2, len(self.twins))
        first = 2 * self.rng.choice(self.twins, pairs, replace=False) if pairs else np.empty(0, int)
        twins, single = np.concatenate([first, first + 1]), self.rng.integers(0, len(self.words), size - 2 * pairs)
        texts = [self.layout_words[r] for r in twins] + [self.words[r] for r in single]
        # Half of the captions have the prefix that CLIP scores put before a text; both twins have the same.
        prefixed = self.rng.random(size) < 0.5
        prefixed[pairs : 2 * pairs] = prefixed[:pairs]
        texts = [PREFIX + text if each else text for text, each in zip(texts, prefixed, strict=True)]
        return np.concatenate([twins, single]), texts


def train(work: Path, minutes: float) -> None:
    torch.manual_seed(0)
    data = corpus.load(work / "corpus")
    tokenizer = CLIPTokenizer.from_pretrained(work / "base" / "tokenizer")
    clip = network(tokenizer, data.side)
    run = Run(work, "clip", clip, minutes, RATE, decay=0.995)
    batches = Batches(data, np.random.default_rng(run.steps))
    own = torch.arange(BATCH)
    while run.going:
        rows, texts = batches.next()
        with autocast():
            cosines = similarities(clip, tokenizer, pixels(data.images[rows]), texts)
        logits = cosines * clip.logit_scale.clamp(max=math.log(100)).exp()
        run.step({"pictures": F.cross_entropy(logits, own) / 2, "texts": F.cross_entropy(logits.T, own) / 2})
        if run.steps % 500 == 0:
            print(f"clip  {_measure(run.average.eval(), tokenizer, data.version)}", flush=True)
    export(work, work / "clip")


def _measure(clip: CLIPModel, tokenizer: CLIPTokenizer, version: int) -> str:
    text = f"held-out retrieval among 100: {retrieval(clip, tokenizer, version=version):.2f}"
    return text if version == 1 else f"{text}, layout among 12: {layout_accuracy(clip, tokenizer):.2f}"


def export(work: Path, folder: Path) -> None:
    """Write a CLIPModel folder: float16 safetensors, tokenizer, pixel statistics."""
    data = corpus.load(work / "corpus")
    tokenizer = CLIPTokenizer.from_pretrained(work / "base" / "tokenizer")
    clip = Run(work, "clip", network(tokenizer, data.side), 1, RATE).average.eval()
    print(f"clip  done: {_measure(clip, tokenizer, data.version)}", flush=True)
    clip.half().save_pretrained(folder, safe_serialization=True)
    tokenizer.model_max_length = POSITIONS
    tokenizer.save_pretrained(folder)
    statistics = {
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": data.side},
        "do_center_crop": True, "crop_size": {"height": data.side, "width": data.side}, "do_rescale": True,
        "do_normalize": True, "image_mean": MEAN, "image_std": STD, "resample": 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--export", action="store_true", help="only write the folder from the last saved state")
    arguments = parser.parse_args()
    if arguments.export:
        export(arguments.work, arguments.work / "clip")
    else:
        train(arguments.work, arguments.minutes)
