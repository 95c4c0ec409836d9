"""The measured table: how like, and how obedient, are pictures of people whom no training has seen.

    python -m pmagic.mini.report --people 10 --sheet docs/report.png

Per held-out person: one portrait is learned by textual inversion and by PersonaMagic with the same number of steps,
and eight prompts are drawn, next to the plain super-category word. Identity is the recogniser's cosine with the
portrait; text is CLIP's cosine with the prompt, and the share of pictures whose own prompt CLIP finds among the eight.
The first row is what the world itself draws for the same person and prompt: no base could do better.
"""

# N pictures

import argparse
import hashlib
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from pmagic import shelf
from pmagic.bases import card
from pmagic.bases.loading import Base, load
from pmagic.engine.recipes import LearnSettings, render_settings_for
from pmagic.engine.rendering import render
from pmagic.engine.subject import Subject, observe, observer
from pmagic.library.store import Library
from pmagic.mini import recogniser
from pmagic.mini.drawing import draw
from pmagic.mini.people import HELD_OUT, person
from pmagic.mini.scenes import PORTRAIT
from pmagic.mini.sheet import contact_sheet

FIRST = HELD_OUT + 200
WORD = "face"
SIDE = 256
# Each prompt with what the world draws for it.
PROMPTS = {
    "a photo of {} as a cowboy": {"outfit": "cowboy"},
    "a photo of {} as an astronaut in space": {"outfit": "astronaut", "place": "space"},
    "a photo of {} wearing a santa hat in the snow": {"outfit": "santa", "place": "snow"},
    "a photo of {} as a chef on a beach": {"outfit": "chef", "place": "beach"},
    "a photo of {} wearing headphones under a night sky": {"outfit": "headphones", "place": "night"},
    "a photo of smiling {} in a library": {"expression": "smile", "place": "library"},
    "an oil painting of {}": {"style": "oil"},
    "a pencil sketch of {}": {"style": "pencil"},
}
METHODS = {"one-vector textual inversion": "textual_inversion", "PersonaMagic": "personamagic"}
CEILING, PLAIN = "drawn by the world itself", "plain word"


def portrait(seed: int) -> Image.Image:
    return Image.fromarray(draw([(person(seed), PORTRAIT)], side=SIDE).image)


def _learned(base: Base, subject: Subject, method: str, library: Library, settings: LearnSettings) -> str:
    return str(library.save(method.replace("_", "-"), shelf.take("methods", method).learn(base, subject, settings)))


def drawn(base: Base, seeds: list[int], draws: int) -> Iterator[tuple[str, int, str, list[Image.Image]]]:
    """Row, person, prompt and pictures, one after another. Personas go through a library, as a user's do."""
    settings = render_settings_for("reference", base.card.defaults)
    many = list(range(draws))
    for prompt, scene in PROMPTS.items():
        plain = render(base, None, prompt, many, settings, word=WORD)
        for seed in seeds:
            ceiling = draw([(person(seed), replace(PORTRAIT, **scene))], side=SIDE).image
            yield CEILING, seed, prompt, [Image.fromarray(ceiling)]
            yield PLAIN, seed, prompt, plain
    for seed in seeds:
        photo = portrait(seed)
        subject = observe(base, [photo], [hashlib.sha256(photo.tobytes()).hexdigest()], word=WORD)
        for row, method in METHODS.items():
            start = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                library = Library(Path(folder))
                wanted = shelf.take("methods", method).settings_for("reference", base.card.defaults)
                name = _learned(base, subject, method, library, wanted)
                _, persona = library.load(name)
            print(f"person {seed}  {row}  learned in {time.monotonic() - start:.0f} s", flush=True)
            for prompt in PROMPTS:
                yield row, seed, prompt, render(base, persona, prompt, many, settings)


def _text_scores(base: Base, pictures: list[Image.Image], prompt: str) -> Tensor:
    """Cosine of each picture with each of the eight prompts: (N, 8)."""
    clip = observer(base)
    texts = [each.replace("{}", WORD) for each in PROMPTS]
    return torch.stack([clip.text_similarity([p] * len(texts), texts) for p in pictures])


def report(people: int, draws: int, sheet: Path | None) -> str:
    """The table as Markdown."""
    base = load(card.find("mini"))
    faces = recogniser.load()
    seeds = [FIRST + k for k in range(people)]
    portraits = {seed: recogniser.embed(faces, [portrait(seed)])[0] for seed in seeds}
    scores: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    shown: dict[str, list[Image.Image]] = defaultdict(list)
    for row, seed, prompt, pictures in drawn(base, seeds, draws):
        identity = recogniser.embed(faces, pictures) @ portraits[seed]
        text, own = _text_scores(base, pictures, prompt), list(PROMPTS).index(prompt)
        for k in range(len(pictures)):
            scores[row].append((float(identity[k]), float(text[k, own]), float(text[k].argmax() == own)))
        if seed < FIRST + 4:
            shown[f"{row}, person {seed - FIRST + 1}"].append(pictures[0])
    if sheet is not None:
        order = [f"{row}, person {k + 1}" for k in range(min(4, people)) for row in (CEILING, PLAIN, *METHODS)]
        contact_sheet(sheet, [(name, shown[name]) for name in order])
    lines = ["| | identity | text | prompt obeyed | pictures |", "|---|---|---|---|---|"]
    for row, values in scores.items():
        identity, text, obeyed = torch.tensor(values).mean(dim=0).tolist()
        spread = float(torch.tensor(values)[:, 0].std())
        lines.append(f"| {row} | {identity:.2f} ± {spread:.2f} | {text:.3f} | {obeyed:.0%} | {len(values)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--pictures", type=int, default=1, help="pictures per prompt, person and method")
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    print(report(arguments.people, arguments.pictures, arguments.sheet))
