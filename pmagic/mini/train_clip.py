"""The miniature's CLIP: pictures and captions of the drawn world in one space.

python -m pmagic.mini.train_clip WORK --minutes 8
"""

# B batch . e projection width

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from pmagic.mini import corpus
from pmagic.mini.training import Run, autocast
from pmagic.vision.clip import PREFIX
from pmagic.world.drawing import SIDE, draw
from pmagic.world.people import HELD_OUT, person
from pmagic.world.scenes import caption, rng_for, scene

BATCH = 128
RATE = 1e-3
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's own
POSITIONS = 77  # of its text, as every CLIP
COMMON = {"hidden_act": "quick_gelu", "num_hidden_layers": 4}


def network(tokenizer: CLIPTokenizer) -> CLIPModel:
    return CLIPModel(
        CLIPConfig(
            attn_implementation="eager",  # the fused one's backward pass is slow on a CPU in bfloat16
            projection_dim=128,
            vision_config={
                **COMMON, "image_size": SIDE, "patch_size": 8, "hidden_size": 192, "intermediate_size": 768,
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
    """(B, 64, 64, 3) uint8 to CLIP's statistics: (B, 3, 64, 64)."""
    raw = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (raw - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def similarities(clip: CLIPModel, tokenizer: CLIPTokenizer, images: Tensor, texts: list[str]) -> Tensor:
    """Cosines between every picture and every text: (B, B)."""
    ids = tokenizer(texts, padding=True, truncation=True, max_length=POSITIONS, return_tensors="pt").input_ids
    seen = clip.visual_projection(clip.vision_model(pixel_values=images).pooler_output)
    said = clip.text_projection(clip.text_model(input_ids=ids).pooler_output)
    return F.normalize(seen.float(), dim=-1) @ F.normalize(said.float(), dim=-1).T


@torch.no_grad()
def retrieval(clip: CLIPModel, tokenizer: CLIPTokenizer, count: int = 100) -> float:
    """Share of held-out pictures whose own caption is the closest of `count`, range [0, 1]; chance is 1 / count."""
    rngs = [rng_for(11, k) for k in range(count)]
    scenes = [scene(rng) for rng in rngs]
    people = [person(HELD_OUT + k) for k in range(count)]
    images = np.stack([draw([(p, s)]).image for p, s in zip(people, scenes, strict=True)])
    texts = [caption(p, s, r, traits=True) for p, s, r in zip(people, scenes, rngs, strict=True)]
    found = similarities(clip, tokenizer, pixels(images), texts).argmax(dim=1)
    return float((found == torch.arange(count)).float().mean())


def train(work: Path, minutes: float) -> None:
    torch.manual_seed(0)
    data = corpus.load(work / "corpus")
    tokenizer = CLIPTokenizer.from_pretrained(work / "base" / "tokenizer")
    clip = network(tokenizer)
    run = Run(work, "clip", clip, minutes, RATE, decay=0.995)
    rng, words = np.random.default_rng(run.steps), data.words
    own = torch.arange(BATCH)
    while run.going:
        rows = np.sort(rng.integers(0, len(data.images), BATCH))
        # Half of the captions carry the prefix that a CLIP score puts before a text.
        texts = [PREFIX + words[r] if rng.random() < 0.5 else words[r] for r in rows]
        with autocast():
            cosines = similarities(clip, tokenizer, pixels(data.images[rows]), texts)
        logits = cosines * clip.logit_scale.clamp(max=math.log(100)).exp()
        run.step({"pictures": F.cross_entropy(logits, own) / 2, "texts": F.cross_entropy(logits.T, own) / 2})
        if run.steps % 500 == 0:
            print(f"clip  held-out retrieval among 100: {retrieval(run.average.eval(), tokenizer):.2f}", flush=True)
    export(work, work / "clip")


def export(work: Path, folder: Path) -> None:
    """Write a CLIPModel folder: float16 safetensors, tokenizer, pixel statistics."""
    tokenizer = CLIPTokenizer.from_pretrained(work / "base" / "tokenizer")
    clip = Run(work, "clip", network(tokenizer), 1, RATE).average.eval()
    print(f"clip  done: held-out retrieval among 100: {retrieval(clip, tokenizer):.2f}", flush=True)
    clip.half().save_pretrained(folder, safe_serialization=True)
    tokenizer.model_max_length = POSITIONS
    tokenizer.save_pretrained(folder)
    statistics = {
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": SIDE},
        "do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}, "do_rescale": True,
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
