"""The measured table: likeness and prompt obedience in pictures of people outside the training set.

    python -m pmagic.experiments.report --people 10 --sheet docs/report.jpg

For each held-out person, one portrait is learned in every way of `LEARNED` with the same number of steps. Eight prompts
are drawn, also with the plain super-category word. Identity is the cosine similarity of the faces in picture and
portrait in the evaluation's own recogniser, -1 if no face is found. Text is CLIP's cosine similarity to the prompt, and
the share of pictures whose own prompt CLIP picks among the eight. Prompts that ask for a photo have two more columns.
"Of the way" is the mean identity on a scale from that of random strangers (0 %) to that of other drawings of the same
person (100 %). "One of ten" is how often the nearest of ten drawn portraits is the right one; the nine others have hair
and skin like the person's. The first row is the world's own drawing of the same person and prompt, the upper limit for
any base. People are spread over the processor's cores.

    python -m pmagic.experiments.report --training --base COPY/base --ways paper

To choose the settings of a base (its pmagic.toml, in a copy of the weights), use people of the training range.
"""

# N pictures . E width of a face's embedding

import argparse
import hashlib
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pmagic import shelf
from pmagic.bases.loading import Base
from pmagic.datasets.world import SCENES as PROMPTS
from pmagic.engine.recipes import RenderSettings, render_settings_for
from pmagic.engine.rendering import render
from pmagic.engine.subject import Subject, encode_photos
from pmagic.experiments.measuring import FIRST, SIDE, TRAINING, WORD, eyes, open_base, portrait
from pmagic.library.store import Library
from pmagic.pictures import ENDINGS
from pmagic.sheet import contact_sheet
from pmagic.world.drawing import draw
from pmagic.world.people import person
from pmagic.world.scenes import PORTRAIT, rng_for, scene

SHOWN = 4  # people on the sheet
OTHERS = 9  # portraits of similar strangers that a picture is compared with
CROWD = range(FIRST + 1000, FIRST + 4000)  # the seeds from which these strangers are selected
ANYBODY = CROWD[::150]  # random strangers
AGAIN = 6  # other drawings of the same person
# way: row, method and recipe
LEARNED = {
    "inversion": ("one-vector textual inversion", "textual_inversion", "reference"),
    "reference": ("PersonaMagic, recipe `reference`", "personamagic", "reference"),
    "paper": ("PersonaMagic, recipe `paper`", "personamagic", "paper"),
}
CEILING, PLAIN = "drawn by the world itself", "plain word"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row, person and prompt. scores: identity, text, obeyed and matched of each picture."""

    row: str
    person: int
    prompt: str
    pictures: list[Image.Image]
    scores: list[tuple[float, float, float, float]]
    seconds: float  # duration of learning, 0 if nothing was learned
    strangers: float  # mean cosine similarity of the portrait to those of random strangers
    same: float  # and to other photos of the same person


def alike(seed: int) -> list[int]:
    """Nine strangers with the person's hair, those with the nearest skin tone."""
    who = person(seed)
    crowd = [k for k in CROWD if person(k).hair_word == who.hair_word]
    return sorted(crowd, key=lambda k: abs(person(k).tone - who.tone))[:OTHERS]


def again(seed: int) -> list[Image.Image]:
    """Other photos of the same person, in random scenes."""
    scenes = [replace(scene(rng_for(21, seed, k)), style="photo") for k in range(AGAIN)]
    return [Image.fromarray(draw([(person(seed), where)], side=SIDE).image) for where in scenes]


def scores(
    name: str, pictures: list[Image.Image], line: np.ndarray, prompt: str
) -> list[tuple[float, float, float, float]]:
    """Identity, text, obeyed and matched of each picture. line: (1 + OTHERS, E), the portrait's embedding first."""
    own, found = list(PROMPTS).index(prompt), []
    texts = eyes(name).clip_similarity(pictures, [each.replace("{}", WORD) for each in PROMPTS])  # (N, prompts)
    for picture, text in zip(pictures, texts, strict=True):
        seen = eyes(name).face(picture)
        near = np.full(len(line), -1.0) if seen is None else line @ seen
        matched = seen is not None and near.argmax() == 0
        found.append((float(near[0]), float(text[own]), float(text.argmax() == own), float(matched)))
    return found


@cache
def _plain(name: str, prompt: str, draws: int) -> list[Image.Image]:
    base = open_base(name)
    return render(base, None, prompt, range(draws), _drawing(base, "reference"), word=WORD)


def _drawing(base: Base, recipe: str) -> RenderSettings:
    return render_settings_for(recipe, base.spec.defaults)


def measure(name: str, seed: int, draws: int, ways: Sequence[str]) -> list[Cell]:
    """All rows and prompts of one person. name: of the base; ways: keys of `LEARNED`."""
    torch.set_num_threads(1)  # one person per core
    photo = portrait(seed)
    found = [eyes(name).face(each) for each in (photo, *(portrait(k) for k in alike(seed)))]
    seen = [each for each in found if each is not None]
    if len(seen) < len(found):
        raise SystemExit(f"no face is found in the portrait of person {seed} or of one alike")
    line = np.stack(seen)
    strangers, same = (
        float(np.mean([each @ line[0] for each in map(eyes(name).face, pictures) if each is not None]))
        for pictures in (map(portrait, ANYBODY), again(seed))
    )
    return [
        Cell(
            row=row,
            person=seed,
            prompt=prompt,
            pictures=pictures,
            scores=scores(name, pictures, line, prompt),
            seconds=seconds,
            strangers=strangers,
            same=same,
        )
        for row, prompt, pictures, seconds in _draw(name, seed, photo, draws, ways)
    ]


def _draw(
    name: str, seed: int, photo: Image.Image, draws: int, ways: Sequence[str]
) -> Iterator[tuple[str, str, list[Image.Image], float]]:
    """Row, prompt, pictures, seconds of learning. Personas pass through a library, as a user's do."""
    for prompt, shown in PROMPTS.items():
        ceiling = draw([(person(seed), replace(PORTRAIT, **shown))], side=SIDE).image
        yield CEILING, prompt, [Image.fromarray(ceiling)], 0.0
        yield PLAIN, prompt, _plain(name, prompt, draws), 0.0
    base = open_base(name)
    for row, method, recipe in (LEARNED[way] for way in ways):
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            library, verbs = Library(Path(folder)), shelf.take("methods", method)
            settings = verbs.settings_for(recipe, base.spec.defaults)
            learned = verbs.learn(base, _subject(base, photo), settings)
            _, persona = library.load(str(library.save("person", learned)))
        seconds = time.monotonic() - start
        print(f"person {seed}  {row}  bounds {persona.bounds.low}:{persona.bounds.high}  {seconds:.0f} s", flush=True)
        for prompt in PROMPTS:
            yield row, prompt, render(base, persona, prompt, range(draws), _drawing(base, recipe)), seconds


def _subject(base: Base, photo: Image.Image) -> Subject:
    return encode_photos(base, [photo], [hashlib.sha256(photo.tobytes()).hexdigest()], word=WORD)


def report(base: str, seeds: Sequence[int], draws: int, ways: Sequence[str], sheet: Path | None) -> str:
    """The table as Markdown."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        everyone = pool.map(partial(measure, base, draws=draws, ways=ways), seeds)
        cells = [cell for each in everyone for cell in each]
    if sheet is not None:
        contact_sheet(sheet, _sheet_rows(cells))
    return "\n".join(_table(cells))


def _sheet_rows(cells: list[Cell]) -> list[tuple[str, list[Image.Image]]]:
    rows: dict[tuple[int, str], list[Image.Image]] = defaultdict(list)
    first = min(cell.person for cell in cells)
    for cell in cells:
        if cell.person < first + SHOWN:
            rows[cell.person, cell.row].append(cell.pictures[0])
    return [(f"person {who - first + 1}: {row.replace('`', '')}", pictures) for (who, row), pictures in rows.items()]


def _table(cells: list[Cell]) -> Iterator[str]:
    """Means over all pictures; the standard error is over people."""
    yield "| | identity | of the way | one of ten | text | prompt obeyed | face found | learned in |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in dict.fromkeys(cell.row for cell in cells):
        mine = [cell for cell in cells if cell.row == row]
        means = np.array([score for cell in mine for score in cell.scores])
        each = [np.mean([s[0] for c in mine if c.person == p for s in c.scores]) for p in {c.person for c in mine}]
        error = np.std(each, ddof=1) / len(each) ** 0.5 if len(each) > 1 else float("nan")
        found = (means[:, 0] > -1).mean()
        seconds = np.mean([cell.seconds for cell in mine])
        identity, text, obeyed, _ = means.mean(axis=0)
        photos = [cell for cell in mine if cell.prompt.startswith("a photo of")]
        matched = np.mean([score[3] for cell in photos for score in cell.scores])
        yield (
            f"| {row} | {identity:.3f} ± {error:.3f} | {_way(photos):.0%} | {matched:.0%} | {text:.3f} | {obeyed:.0%} "
            f"| {found:.0%} | {f'{seconds:.0f} s' if seconds else ''} |"
        )


def _way(cells: list[Cell]) -> float:
    """The mean identity on a scale from strangers (0) to other drawings of the same person (1)."""
    identity = np.mean([score[0] for cell in cells for score in cell.scores])
    strangers, same = np.mean([cell.strangers for cell in cells]), np.mean([cell.same for cell in cells])
    return float((identity - strangers) / (same - strangers))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--pictures", type=int, default=1, help="pictures per prompt, person and row")
    parser.add_argument("--ways", nargs="+", choices=LEARNED, default=list(LEARNED), help="of learning")
    parser.add_argument("--sheet", type=Path, help="a name that ends in .png, .jpg or .webp")
    parser.add_argument("--base", default="mini")
    parser.add_argument("--training", action="store_true", help="people of the training range")
    arguments = parser.parse_args()
    if arguments.sheet is not None and arguments.sheet.suffix not in ENDINGS:
        parser.error(f"--sheet {arguments.sheet} ends in none of {', '.join(ENDINGS)}")  # not after 40 minutes
    first = TRAINING if arguments.training else FIRST
    seeds = range(first, first + arguments.people)
    print(report(arguments.base, seeds, arguments.pictures, arguments.ways, arguments.sheet))
