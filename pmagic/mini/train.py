"""Makes the whole miniature: world, tokenizer, autoencoder, CLIP, recogniser, base; then installs the weights.

    python -m pmagic.mini.train WORK --minutes 100

Every part goes on where it stopped, and one that is done is not begun again: WORK holds the state. Longer budgets
for a finished part are given to its own command (train_vae, train_clip, recogniser, train_base).
"""

import argparse
import shutil
from pathlib import Path

from pmagic.mini import corpus, recogniser, train_base, train_clip, train_vae, vocabulary

WEIGHTS = Path(__file__).parent / "weights"
PARTS = ("base", "clip", "recogniser")
SHARES = {"vae": 0.14, "clip": 0.1, "recogniser": 0.09, "base": 0.67}  # of the minutes


def make(work: Path, minutes: float, pictures: int) -> None:
    """Everything in order, in about `minutes` besides the drawing and encoding of the pictures."""
    corpus.make(work / "corpus", pictures)
    if not (work / "base" / "tokenizer" / "vocab.json").exists():
        vocabulary.make(work / "base" / "tokenizer", corpus.load(work / "corpus").captions)
    train_vae.train(work, SHARES["vae"] * minutes)
    train_clip.train(work, SHARES["clip"] * minutes)
    recogniser.train(work, SHARES["recogniser"] * minutes)
    train_base.train(work, SHARES["base"] * minutes)
    install(work)


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
    parser.add_argument("--install", action="store_true", help="only copy WORK's folders into the package")
    arguments = parser.parse_args()
    if arguments.install:
        install(arguments.work)
    else:
        make(arguments.work, arguments.minutes, arguments.pictures)
