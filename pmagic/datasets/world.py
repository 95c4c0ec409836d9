"""The drawn world: people whom no training of the miniature has seen, with exact masks and all their traits.

The portrait is learned from; another scene of the same person is kept to compare with.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from pmagic import datasets
from pmagic.datasets import Individual
from pmagic.errors import UsageProblem, WeightsMissing
from pmagic.pictures import Photo

if TYPE_CHECKING:
    from pmagic.world.drawing import Drawing

WANTED = "nothing: the world is drawn"
WHERE = "leave --root out"
# What is drawn of its people: sentences, each with the scene that it asks for.
SCENES: Mapping[str, Mapping[str, str]] = {
    "a photo of {} as a cowboy": {"outfit": "cowboy"},
    "a photo of {} as an astronaut in space": {"outfit": "astronaut", "place": "space"},
    "a photo of {} wearing a santa hat in the snow": {"outfit": "santa", "place": "snow"},
    "a photo of {} as a chef on a beach": {"outfit": "chef", "place": "beach"},
    "a photo of {} wearing headphones under a night sky": {"outfit": "headphones", "place": "night"},
    "a photo of smiling {} in a library": {"expression": "smile", "place": "library"},
    "an oil painting of {}": {"style": "oil"},
    "a pencil sketch of {}": {"style": "pencil"},
}
PROMPTS = tuple(SCENES)
fetches = datasets.fetches_nothing
FIRST, PEOPLE = 10_000, 2_000  # seeds of its people, counted from the first that is held out of every training
SIDE = 256  # pixels
_OTHER = {"x": 0.48, "turn": -4.0, "yaw": 0.05, "light": -0.6, "expression": "smile", "place": "green", "seed": 2}


def people(root: Path | None) -> list[Individual]:
    """Raises UsageProblem for a root, WeightsMissing where the drawing library is not installed."""
    if root is not None:
        raise UsageProblem("the drawn world has no folder, so no --root", WHERE)
    try:
        from pmagic.world.people import HELD_OUT, person, trait_words
    except ImportError as error:
        raise _undrawable(error) from error
    found = []
    for seed in range(HELD_OUT + FIRST, HELD_OUT + FIRST + PEOPLE):
        striking, _ = trait_words(person(seed))
        found.append(
            Individual(
                name=f"person {seed - HELD_OUT}",
                learned=(partial(_photo, seed, False),),
                unseen=(partial(_photo, seed, True),),
                mask=partial(_mask, seed),
                traits=", ".join(words for _, words in striking),
            )
        )
    return found


def _photo(seed: int, other: bool) -> Photo:
    picture = Image.fromarray(_drawing(seed, other).image)
    return Photo(picture, hashlib.sha256(picture.tobytes()).hexdigest(), Path("world", str(seed)))


def _mask(seed: int) -> Image.Image:
    return Image.fromarray(_drawing(seed, False).mask)


@cache
def _drawing(seed: int, other: bool) -> "Drawing":
    try:
        from pmagic.world.drawing import draw
    except ImportError as error:
        raise _undrawable(error) from error
    from pmagic.world.people import person
    from pmagic.world.scenes import PORTRAIT

    return draw([(person(seed), replace(PORTRAIT, **(_OTHER if other else {})))], side=SIDE)


def _undrawable(error: ImportError) -> WeightsMissing:
    return WeightsMissing(
        f"the world cannot be drawn: {error}", "install its library with `pip install 'pmagic[world]'`"
    )
