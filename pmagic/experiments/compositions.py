"""The measured table of `compose`: person and style, two people, a person in a background, expressions.

    python -m pmagic.experiments.compositions WORK --pairs 10 --sheets docs

People outside the training set form a ring, and each is paired with the next. Each person is learned once, from one
portrait, and each style from three pictures of other people; the library WORK keeps them. Identity is the cosine
similarity of a face and the portrait in the evaluation's own recogniser, -1 if no face is found. A person counts as
recognised if their portrait is the nearest of all portraits (chance: one divided by the number of people). A style or
an expression counts as obeyed if CLIP picks its own sentence among those of its kind. Learning and pairs are spread
over the cores.
"""

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from pmagic import api
from pmagic.engine.inpainting import inpaint_region
from pmagic.engine.recipes import RenderSettings, render_settings_for
from pmagic.engine.regions import Box
from pmagic.engine.rendering import compose
from pmagic.experiments.measuring import FIRST, WORD, eyes, open_base, portrait
from pmagic.library.store import Library
from pmagic.persona import Persona
from pmagic.sheet import contact_sheet
from pmagic.vision import faces
from pmagic.vision.faces import Face
from pmagic.world.drawing import draw
from pmagic.world.people import NAMED, person
from pmagic.world.scenes import EXPRESSIONS, PLACES, PORTRAIT, STYLES, Scene

SIDE = 128  # pixels of the world's own drawings
OF_STYLE = tuple(style for style in STYLES if style != "photo")
MOODS = {name: word for name, word in EXPRESSIONS.items() if word}
LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
SOFT = 6  # pixels of the mask's soft edge
SHOWN = 4  # pairs on a sheet
CEILING = "drawn by the world itself"


@dataclass(frozen=True)
class Options:
    """The options that affect the numbers, besides the base. iterations and steps: None for the recipe's own."""

    work: Path
    people: int
    recipe: str
    iterations: int | None
    steps: int | None


@dataclass(frozen=True)
class Cell:
    """One picture of a pair, with its scores by name."""

    part: str  # the table that it belongs to
    row: str
    pair: int
    picture: Image.Image
    scores: dict[str, float]


@cache
def _judge() -> faces.FacePack:
    judge = open_base().spec.eval_recognizer
    assert isinstance(judge, Path)  # the miniature comes with a recogniser for evaluation
    return faces.load(judge)


def _drawing(options: Options) -> RenderSettings:
    return render_settings_for(options.recipe, open_base().spec.defaults, steps=options.steps)


def learn(options: Options, name: str, photos: Sequence[Image.Image], word: str, style: bool) -> None:
    """Learn a persona into the library, unless it is already there."""
    torch.set_num_threads(1)  # one persona per core
    if name in Library(options.work).names():
        return
    persona = api.learn(
        photos, base=open_base(), word=word, style=style, recipe=options.recipe, iterations=options.iterations
    )
    api.save(persona, name, library=options.work)
    print(f"learned {name}", flush=True)


def list_lessons(options: Options) -> Iterator[tuple[str, list[Image.Image], str, bool]]:
    """Name, photos, word and whether it is a style, for every person and style to learn."""
    for k in range(options.people):
        yield f"person-{k}", [portrait(FIRST + k)], WORD, False
    for style in OF_STYLE[: options.people]:
        shown = [replace(PORTRAIT, style=style, place=place, seed=9) for place in ("beach", "library", "yellow")]
        seen = [draw([(person(NAMED + k), scene)], side=SIDE).image for k, scene in enumerate(shown)]
        yield f"style-{style}", [Image.fromarray(each) for each in seen], "painting", True


@cache
def likenesses(people: int) -> np.ndarray:
    """The embeddings of all portraits: (people, E)."""
    found = [eyes().face(portrait(FIRST + k)) for k in range(people)]
    return np.stack([each for each in found if each is not None])  # every portrait shows a face


def inspect_face(picture: Image.Image, who: int, people: int, found: Face | None = None) -> dict[str, float]:
    """Similarity of a face (by default the largest) to person `who`, and whether the person is recognised by it."""
    found = found or next(iter(_judge().find(picture)), None)
    if found is None:
        return {"identity": -1.0, "recognised": 0.0}
    cosines = likenesses(people) @ _judge().embed(picture, [found])[0]
    return {"identity": float(cosines[who]), "recognised": float(cosines.argmax() == who)}


def picks_text(picture: Image.Image, texts: Sequence[str], own: int) -> float:
    """1 if CLIP picks text number `own` among the texts, else 0."""
    return float(eyes().clip_similarity([picture], texts)[0].argmax() == own)


def measure(options: Options, pair: int) -> list[Cell]:
    """All pictures of one pair."""
    torch.set_num_threads(1)  # one pair per core
    parts: list[Callable[[Options, int, int], Iterator[Cell]]] = [_styles, _people, _places, _moods]
    return [cell for part in parts for cell in part(options, pair, (pair + 1) % options.people)]


def _persona(options: Options, name: str) -> Persona:
    return api.load(name, library=options.work)


def _draw(options: Options, personas: Mapping[str, Persona | str], prompt: str, pair: int, **more: Any) -> Image.Image:
    size = more.pop("size", None)
    return compose(open_base(), personas, prompt, [pair], replace(_drawing(options), size=size), **more)[0]


def _world(*figures: tuple[int, Scene]) -> Image.Image:
    return Image.fromarray(draw([(person(FIRST + who), scene) for who, scene in figures], side=SIDE).image)


def _styles(options: Options, pair: int, _: int) -> Iterator[Cell]:
    style = OF_STYLE[: options.people][pair % min(options.people, len(OF_STYLE))]
    texts = [f"{words} a {WORD}" for words in STYLES.values()]
    me, other = _persona(options, f"person-{pair}"), _persona(options, f"style-{style}")
    personas = {"me": me, "style": other}
    rows = {
        CEILING: _world((pair, replace(PORTRAIT, style=style))),
        "the person alone": _draw(options, {"me": me}, "a photo of {me}", pair),
        "the style alone": _draw(options, {"style": other}, "a painting in the style of {style}", pair),
        "person and style": _draw(options, personas, "a photo of {me} in the style of {style}", pair),
        "person, and the style in words": _draw(options, {"me": me}, f"{STYLES[style]} {{me}}", pair),
    }
    for row, picture in rows.items():
        likeness = {} if row == "the style alone" else inspect_face(picture, pair, options.people)
        score = {**likeness, "style": picks_text(picture, texts, list(STYLES).index(style))}
        yield Cell("style", row, pair, picture, score)


def _people(options: Options, pair: int, next_to: int) -> Iterator[Cell]:
    side = open_base().size
    personas = {"a": _persona(options, f"person-{pair}"), "b": _persona(options, f"person-{next_to}")}
    prompt, both = "a photo of {a} and {b} on a beach", {"a": LEFT, "b": RIGHT}
    stand = [replace(PORTRAIT, place="beach", scale=0.22, x=x) for x in (0.27, 0.73)]
    rows = {
        CEILING: _world((pair, stand[0]), (next_to, stand[1])),
        "in one prompt": _draw(options, personas, prompt, pair),
        "each in a region": _draw(options, personas, prompt, pair, regions=both),
        "each in a region, twice as wide": _draw(options, personas, prompt, pair, regions=both, size=(2 * side, side)),
        "one after the other, into a wide background": _one_by_one(options, personas, pair),
    }
    for row, picture in rows.items():
        yield Cell("people", row, pair, picture, _both(picture, (pair, next_to), options.people))
    for who, name in ((pair, "a"), (next_to, "b")):
        picture = _draw(options, {name: personas[name]}, f"a photo of {{{name}}} on a beach", pair)
        yield Cell("people", "one person alone", pair, picture, inspect_face(picture, who, options.people))


def _one_by_one(options: Options, personas: Mapping[str, Persona | str], pair: int) -> Image.Image:
    """Draw two people by localised editing, each at the base's full size, into a background twice as wide."""
    scenery = Image.fromarray(draw([], (None, Scene(place="beach")), side=2 * SIDE).image)
    picture = scenery.crop((0, SIDE // 2, 2 * SIDE, SIDE // 2 + SIDE))
    for number, name in enumerate(personas):
        place = inpaint_region(picture, _oval(picture.size, (0.5 * number, 0.0, 0.5 * number + 0.5, 1.0)), (1, 1), SOFT)
        picture = _draw(options, {name: personas[name]}, f"a photo of {{{name}}} on a beach", pair, edit=place)
    return picture


def _oval(size: tuple[int, int], box: Box) -> Image.Image:
    """A mask of head and shoulders in the middle of a box, down to its lower edge."""
    left, top, right, bottom = (share * size[axis % 2] for axis, share in enumerate(box))
    width, height = right - left, bottom - top
    mask = Image.new("L", size, 0)
    oval = (left + 0.22 * width, top + 0.18 * height, right - 0.22 * width, bottom + 0.2 * height)
    ImageDraw.Draw(mask).ellipse(oval, fill=255)
    return mask


def _both(picture: Image.Image, who: tuple[int, int], people: int) -> dict[str, float]:
    """Scores of a picture in which who[0] should be on the left and who[1] on the right."""
    found = _judge().find(picture)
    halves = [
        next((face for face in found if (face.box[0] + face.box[2] < picture.width) == is_left), None)
        for is_left in (True, False)
    ]
    scores = [
        inspect_face(picture, each, people, face) if face else {"identity": -1.0, "recognised": 0.0}
        for each, face in zip(who, halves, strict=True)
    ]
    there = [face for face in halves if face]
    told_apart = 0.0
    if len(there) == 2:
        cosines = _judge().embed(picture, there) @ likenesses(people)[list(who)].T  # (faces, people)
        told_apart = float(np.trace(cosines) > np.trace(cosines[::-1]))
    return {
        "two faces": float(len(there) == 2),
        "each at its place": told_apart,  # not exchanged; 0 if one of them is missing
        **{name: float(np.mean([each[name] for each in scores])) for name in scores[0]},
    }


def _places(options: Options, pair: int, _: int) -> Iterator[Cell]:
    me = _persona(options, f"person-{pair}")
    place = list(PLACES)[pair % len(PLACES)]
    background = Image.fromarray(draw([], (None, Scene(place=place)), side=SIDE).image)
    mask = _oval(background.size, (0.1, 0.1, 1.0, 1.0))
    prompt, outside = f"a photo of {{me}} {PLACES[place]}", np.asarray(mask) == 0
    rows = {
        CEILING: _world((pair, replace(PORTRAIT, place=place, x=0.55, y=0.65, scale=0.26))),
        "in a background": _draw(options, {"me": me}, prompt, pair, edit=inpaint_region(background, mask, (1, 1))),
        "in a background, soft edge": _draw(
            options, {"me": me}, prompt, pair, edit=inpaint_region(background, mask, (1, 1), SOFT)
        ),
        "the person alone": _draw(options, {"me": me}, prompt, pair),
    }
    for row, picture in rows.items():
        scores = inspect_face(picture, pair, options.people)
        if "background" in row:
            same = np.asarray(picture)[outside] == np.asarray(background)[outside]
            scores["background the same"] = float(same.all())
        yield Cell("background", row, pair, picture, scores)


def _moods(options: Options, pair: int, _: int) -> Iterator[Cell]:
    me = _persona(options, f"person-{pair}")
    texts = [f"a photo of {word} {WORD}" for word in MOODS.values()]
    for number, (mood, word) in enumerate(MOODS.items()):
        rows = {
            CEILING: _world((pair, replace(PORTRAIT, expression=mood))),
            "the plain word": _draw(options, {"me": WORD}, f"a photo of {word} {{me}}", pair),
            "the person": _draw(options, {"me": me}, f"a photo of {word} {{me}}", pair),
        }
        for row, picture in rows.items():
            score = {**inspect_face(picture, pair, options.people), "expression": picks_text(picture, texts, number)}
            yield Cell("expression", row, pair, picture, score)


def report(options: Options, pairs: int, sheets: Path | None, cores: int | None) -> str:
    """The tables as Markdown."""
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        learned = [pool.submit(learn, options, *each) for each in list_lessons(options)]
        for each in learned:
            each.result()
        cells = [cell for each in pool.map(measure, [options] * pairs, range(pairs)) for cell in each]
    parts = dict.fromkeys(cell.part for cell in cells)
    if sheets is not None:
        for part in parts:
            mine = [cell for cell in cells if cell.part == part and cell.pair < SHOWN]
            rows = dict.fromkeys(cell.row for cell in mine)
            shown = [(row, [cell.picture for cell in mine if cell.row == row]) for row in rows]
            portraits = [portrait(FIRST + k) for k in range(min(SHOWN + 1, options.people))]
            contact_sheet(sheets / f"compose-{part}.png", [("learned from", portraits), *shown])
    return "\n\n".join("\n".join(_table([cell for cell in cells if cell.part == part])) for part in parts)


def _table(cells: list[Cell]) -> Iterator[str]:
    """Means over all pictures; the standard error is over pairs."""
    names = list(dict.fromkeys(name for cell in cells for name in cell.scores))
    yield f"| {cells[0].part} | {' | '.join(names)} |"
    yield "|---" * (len(names) + 1) + "|"
    for row in dict.fromkeys(cell.row for cell in cells):
        mine = [cell for cell in cells if cell.row == row]
        yield f"| {row} | {' | '.join(_mean(mine, name) for name in names)} |"


def _mean(cells: list[Cell], name: str) -> str:
    if name not in cells[0].scores:
        return ""
    each = [np.mean([c.scores[name] for c in cells if c.pair == pair]) for pair in dict.fromkeys(c.pair for c in cells)]
    error = f" ± {np.std(each, ddof=1) / len(each) ** 0.5:.3f}" if len(each) > 1 else ""
    return f"{np.mean(each):.3f}{error}" if name == "identity" else f"{np.mean(each):.0%}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="library for those who are learned; a second run learns nobody again")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--recipe", default="paper")
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    given = parser.parse_args()
    setting = Options(given.work, max(given.pairs, 2), given.recipe, given.iterations, given.steps)
    print(report(setting, given.pairs, given.sheets, given.cores))
