"""Text control: how often a picture shows the outfit, the place and the style that its prompt asks for.

    python -m pmagic.experiments.control --pictures 8

The base draws its plain word, without a persona. The miniature's CLIP, which is trained separately from the base, picks
a picture's sentence among all sentences of a kind. The world's own drawings of people outside the training set are
measured as well, because CLIP also errs on them.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from pmagic.engine.recipes import render_settings_for
from pmagic.engine.rendering import render
from pmagic.experiments.measuring import FIRST, SIDE, WORD, eyes, open_base
from pmagic.world.drawing import draw
from pmagic.world.people import person
from pmagic.world.scenes import OUTFITS, PLACES, PORTRAIT, STYLES, Scene

# For each kind: the prompt of each of its values.
KINDS: Mapping[str, Mapping[str, str]] = {
    "outfit": {value: f"a photo of a {{}} {words}" for value, words in OUTFITS.items()},
    "place": {value: f"a photo of a {{}} {words}" for value, words in PLACES.items()},
    "style": {value: f"{words} a {{}}" for value, words in STYLES.items()},
}


def draw_people(where: Scene, count: int) -> list[Image.Image]:
    """Drawings by the world: one person per picture."""
    return [Image.fromarray(draw([(person(FIRST + k), where)], side=SIDE).image) for k in range(count)]


def measure(name: str, count: int) -> Iterator[tuple[str, float, float]]:
    """For each kind, the share of pictures that show what the prompt asks for: the world's and the base's."""
    base = open_base(name)
    drawing = render_settings_for("paper", base.spec.defaults)
    for kind, prompts in KINDS.items():
        texts = [prompt.replace("{}", WORD) for prompt in prompts.values()]
        hits: tuple[list[bool], list[bool]] = ([], [])
        for own, (value, prompt) in enumerate(prompts.items()):
            drawn = draw_people(replace(PORTRAIT, **{kind: value}), count)
            rendered = render(base, None, prompt, range(count), drawing, word=WORD)
            for found, pictures in zip(hits, (drawn, rendered), strict=True):
                found += (eyes(name).clip_similarity(pictures, texts).argmax(dim=1) == own).tolist()
        by_world, by_base = (float(np.mean(each)) for each in hits)
        yield f"{kind}, of {len(prompts)}", by_world, by_base


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=8, help="of each prompt")
    parser.add_argument("--base", default="mini")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| | drawn by the world itself | by the base |\n|---|---|---|")
    for kind, world, own in measure(arguments.base, arguments.pictures):
        print(f"| {kind} | {world:.0%} | {own:.0%} |", flush=True)
