"""A sheet that shows why stages help: people learned from a snapshot without and with a plain first stage.

    pmagic eval --dataset world --photos snapshots --base mini --recipe tuned --ablation stages --out EVAL
    python -m pmagic.experiments.snapshots EVAL docs/snapshots.png

Without it, they are learned over the whole schedule. Each person has two rows, which begin with the snapshot. The
pictures of a column share prompt and noise.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from pmagic.datasets import world
from pmagic.sheet import contact_sheet

WITHOUT, WITH = "whole", "stages"  # rows of the evaluation
PEOPLE, PROMPTS = 3, (0, 2, 3, 4, 6)  # prompts by number, counted from 0


def sheet_of(folder: Path, sheet: Path, people: int, variants: Sequence[str]) -> None:
    """Write the sheet of an evaluation's first people. Raises OSError or KeyError if the evaluation is not there."""
    results = json.loads((folder / "results.json").read_text())
    titles = {each["key"]: each["title"] for each in results["plan"]["variants"]}
    files = {(p["variant"], p["person"], p["prompt"]): p["file"] for p in reversed(results["pictures"])}
    rows = []
    for number in sorted({p["person"] for p in results["pictures"]})[:people]:
        photo = _snapshot(results["plan"]["people"][0][number - 1])
        for variant in variants:
            pictures = [Image.open(folder / files[variant, number, prompt + 1]) for prompt in PROMPTS]
            rows.append((titles[variant], [photo, *pictures]))
    contact_sheet(sheet, rows)


def _snapshot(name: str) -> Image.Image:
    """The photo from which a person of the world was learned."""
    who = next(each for each in world.people(None, world.SNAPSHOTS) if each.name == name)
    return who.learned[0]().image


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--people", type=int, default=PEOPLE)
    parser.add_argument("--rows", nargs=2, default=(WITHOUT, WITH), help="keys of the evaluation's variants")
    arguments = parser.parse_args()
    sheet_of(arguments.evaluation, arguments.sheet, arguments.people, arguments.rows)
