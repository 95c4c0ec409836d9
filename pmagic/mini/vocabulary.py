"""The miniature's tokenizer: CLIP's byte-pair encoding, trained until every word of the world is one token."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from pmagic.world.people import NAMES
from pmagic.world.scenes import ASIDES, FILLERS, NEGATIVES, OPENINGS

# Text positions of the base. Stable Diffusion's 77 would be mostly padding: with captions of a dozen words, the end and
# padding tokens received 0.92 of the cross-attention, and no word received attention anywhere.
LENGTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"
# CLIP's own pattern for splitting a text into words.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def extend(folder: Path, words: Sequence[str]) -> CLIPTokenizer:
    """Make each word one token of `folder`'s tokenizer; new tokens come last, so existing tokens keep their ids.

    New merges apply only where no old one does, so that words that are one token remain so.
    """
    (folder / "tokenizer.json").unlink(missing_ok=True)  # would be read instead of the two files changed here
    vocabulary = json.loads((folder / "vocab.json").read_text())
    merges = (folder / "merges.txt").read_text().splitlines()
    for word in words:
        pieces = CLIPTokenizer.from_pretrained(folder).tokenize(word)
        while len(pieces) > 1:
            merges.append(f"{pieces[0]} {pieces[1]}")
            pieces[:2] = [pieces[0] + pieces[1]]
            vocabulary.setdefault(pieces[0], len(vocabulary))
        (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
        (folder / "merges.txt").write_text("\n".join(merges) + "\n")
    return CLIPTokenizer.from_pretrained(folder)


def make(folder: Path, captions: list[str]) -> CLIPTokenizer:
    """Write vocab.json and merges.txt into `folder` and load them as CLIP's tokenizer."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer = normalizers.Lowercase()
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True), byte_level]
    )
    texts = [*captions, *NAMES, *OPENINGS, *FILLERS, *ASIDES, *NEGATIVES]
    words = Counter(w for text in texts for w in text.lower().replace(",", " ").split())
    trainer = trainers.BpeTrainer(
        vocab_size=20_000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    trained.train_from_iterator(words, trainer)
    merges = [tuple(m) for m in json.loads(trained.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(c + "</w>" for c in letters), *("".join(m) for m in merges), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, "do_lower_case": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2))
    return CLIPTokenizer.from_pretrained(folder)
