"""Trains the whole miniature: corpus, tokenizer, autoencoder, CLIP, face networks, base; then installs the weights.

    python -m pmagic.mini.train WORK --minutes 100

WORK holds the state: every part resumes where it stopped, and finished parts are skipped. To train a finished part for
longer, use its own command (train_vae, train_clip, train_detector, train_recognisers, train_clipseg, train_base).
With --onward an empty WORK starts from the shipped weights: only the base is trained further, all else is finished.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from pmagic.mini import (
    base_material,
    base_networks,
    corpus,
    gallery,
    train_base,
    train_clip,
    train_clipseg,
    train_detector,
    train_recognisers,
    train_vae,
    vocabulary,
)
from pmagic.mini.training import write_state
from pmagic.world.captions import NEW_WORDS
from pmagic.world.versions import WORLDS

WEIGHTS = Path(__file__).parent / "weights"
TOKEN_TABLE = "text.embeddings.token_embedding.weight"
EYES = ("faces_a", "faces_b", "clipseg")
PARTS = ("base", "names", "clip", *EYES)
SHARES = {  # shares of the minutes
    "vae": 0.12, "clip": 0.09, "detector": 0.06, "a": 0.07, "b": 0.07, "clipseg": 0.05,
    "base": 0.54,
}  # fmt: skip


def make(work: Path, minutes: float, pictures: int, version: int = 1) -> None:
    """Run all parts in order, in about `minutes` plus the time to draw and encode the pictures."""
    corpus.make(work / "corpus", pictures, version)
    if not (work / "base" / "tokenizer" / "vocab.json").exists():
        vocabulary.make(work / "base" / "tokenizer", corpus.load(work / "corpus").words)
    train_vae.train(work, SHARES["vae"] * minutes)
    train_clip.train(work, SHARES["clip"] * minutes)
    gallery.make(work / "gallery", pictures // 3)
    if not (work / "faces_b" / "detector.onnx").exists():
        train_detector.train(work, SHARES["detector"] * minutes)
    for which in train_recognisers.KINDS:
        if not (work / f"faces_{which}" / "recogniser.onnx").exists():
            train_recognisers.train(work, which, SHARES[which] * minutes)
    if not (work / "clipseg" / "preprocessor_config.json").exists():
        train_clipseg.train(work, SHARES["clipseg"] * minutes)
    train_base.train(work, SHARES["base"] * minutes)
    install(work)


def take_up(work: Path, version: int = 1) -> None:
    """Write WORK's states from the shipped weights: the base's run starts from them, and the autoencoder is finished.

    The vocabulary is the shipped one. A corpus with more pictures may follow, but not one with more words. For world 2
    its words are appended to the vocabulary, and CLIP, which has to learn them, counts as unfinished.
    """
    shutil.copytree(WEIGHTS / "base" / "tokenizer", work / "base" / "tokenizer", dirs_exist_ok=True)
    for part in (*EYES, "clip"):
        shutil.copytree(WEIGHTS / part, work / part, dirs_exist_ok=True)
    networks, vae = train_base.load_exported(WEIGHTS)
    weights = networks.state_dict()
    if version > 1:
        tokenizer = vocabulary.extend(work / "base" / "tokenizer", NEW_WORDS)
        weights[TOKEN_TABLE] = with_new_words(weights[TOKEN_TABLE], tokenizer)
        (work / base_material.SCALING).write_text(json.dumps({"scaling_factor": vae.config["scaling_factor"]}))
    done, begun = {"steps": 0, "spent": 1e9, "averaged": 1}, {"steps": 0, "spent": 0.0, "averaged": 1}
    states = {"vae": (vae.state_dict(), done), "base": (weights, begun)}
    if version == 1:
        clip = CLIPModel.from_pretrained(WEIGHTS / "clip", use_safetensors=True, dtype=torch.float32)
        states["clip"] = (clip.state_dict(), done)
    for name, (tensors, story) in states.items():
        if not (work / f"{name}.safetensors").exists():
            write_state(work / f"{name}.safetensors", tensors, tensors, {}, story)


def with_new_words(table: Tensor, tokenizer: CLIPTokenizer) -> Tensor:
    """Token embeddings (words, w) extended by rows of the same norm for the tokenizer's new words.

    The new rows start at random: the previous tokens of "left" and "right" (their letters) meant almost nothing, and
    the same for both. These two start opposite to each other, so that they are distinct before any training.
    """
    more = torch.randn(len(tokenizer) - len(table), table.shape[1], generator=torch.Generator().manual_seed(2))
    whole = torch.cat([table, more])
    left, right = (tokenizer.convert_tokens_to_ids(f"{word}</w>") for word in ("left", "right"))
    whole[right] = -whole[left]
    whole[len(table) :] = F.normalize(whole[len(table) :], dim=-1) * base_networks.TOKEN_LENGTH
    return whole


def install(work: Path) -> None:
    """Copy the finished folders over the package's own."""
    for part in PARTS:
        shutil.rmtree(WEIGHTS / part, ignore_errors=True)
        shutil.copytree(work / part, WEIGHTS / part)
        for file in (WEIGHTS / part).rglob("*.*"):
            file.chmod(0o644)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=100)
    parser.add_argument("--pictures", type=int, default=60_000)
    parser.add_argument("--onward", action="store_true", help="begin from the shipped weights")
    parser.add_argument("--begin", action="store_true", help="only write WORK's states from the shipped weights")
    parser.add_argument("--world", type=int, choices=WORLDS, default=1, help="the world's version")
    parser.add_argument("--install", action="store_true", help="only copy WORK's folders into the package")
    arguments = parser.parse_args()
    if arguments.install:
        install(arguments.work)
    elif arguments.begin:
        take_up(arguments.work, arguments.world)
    else:
        if arguments.onward:
            take_up(arguments.work, arguments.world)
        make(arguments.work, arguments.minutes, arguments.pictures, arguments.world)
