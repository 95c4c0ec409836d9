"""The drawn world: people whom no training of the miniature has seen, with exact masks and all their traits.

With `portraits`, a portrait is learned from, and another scene of the same person is compared with. With `snapshots`,
the photo is like many people's only photo of somebody: the person's seed puts the person to one side, smaller, with a
tilted head; then the portrait is compared with.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from pmagic import datasets
from pmagic.datasets import Individual
from pmagic.errors import UsageError, WeightsMissing
from pmagic.pictures import Photo

if TYPE_CHECKING:
    from pmagic.world.drawing import Drawing
    from pmagic.world.scenes import Scene

WANTED = "nothing: the world is drawn"
WHERE = "leave --root out"
# The prompts, each with the fields of the scene that it describes.
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
left_out = datasets.nothing_left_out
PORTRAITS, SNAPSHOTS = "portraits", "snapshots"
PHOTOS = (PORTRAITS, SNAPSHOTS)
FIRST, PEOPLE = 10_000, 2_000  # seeds, counted from the first that no training uses
PANEL = 16  # people after them, outside every sample
SIDE = 256  # pixels
_OTHER = {"x": 0.48, "turn": -4.0, "yaw": 0.05, "light": -0.6, "expression": "smile", "place": "green", "seed": 2}
_SNAPSHOT = 8  # a stream of random numbers of its own


def people(root: Path | None, photos: str = PORTRAITS) -> list[Individual]:
    """Raises UsageError for a root, WeightsMissing where the drawing library is not installed."""
    return individuals(root, range(held_out() + FIRST, held_out() + FIRST + PEOPLE), photos)


def panel(photos: str = PORTRAITS) -> list[Individual]:
    """Raises WeightsMissing where the drawing library is not installed."""
    first = held_out() + FIRST + PEOPLE
    return individuals(None, range(first, first + PANEL), photos)


def held_out() -> int:
    """The first seed that no training has seen. Raises WeightsMissing where the drawing library is not installed."""
    try:
        import pmagic.world.drawing  # noqa: F401 - before a run begins, not when its first person is drawn
        from pmagic.world.people import HELD_OUT
    except ImportError as error:
        raise _drawing_missing(error) from error
    return HELD_OUT


def individuals(root: Path | None, seeds: Sequence[int], photos: str) -> list[Individual]:
    """The people of these seeds. Raises as `people`."""
    if root is not None:
        raise UsageError("the drawn world has no folder, so no --root", WHERE)
    first = held_out()
    from pmagic.world.people import person, trait_words
    from pmagic.world.scenes import PORTRAIT

    members = []
    for seed in seeds:
        striking, _ = trait_words(person(seed))
        other = replace(PORTRAIT, **_OTHER)
        learned, unseen = (PORTRAIT, other) if photos == PORTRAITS else (snapshot(seed), PORTRAIT)
        members.append(
            Individual(
                name=f"person {seed - first if seed >= first else seed}",
                learned=(partial(_photo, seed, learned),),
                unseen=(partial(_photo, seed, unseen),),
                mask=partial(_mask, seed, learned),
                traits=", ".join(words for _, words in striking),
                drawings={
                    prompt: partial(_photo, seed, replace(PORTRAIT, **fields)) for prompt, fields in SCENES.items()
                },
            )
        )
    return members


def snapshot(seed: int) -> "Scene":
    """The layout of a person's snapshot: lengths are shares of the picture's side, the tilt is at most 12 degrees."""
    from pmagic.world.scenes import PORTRAIT, rng_for

    rng = rng_for(_SNAPSHOT, seed)
    left = float(rng.uniform(0.22, 0.34))
    return replace(
        PORTRAIT,
        x=left if rng.random() < 0.5 else 1 - left,
        y=float(rng.uniform(0.48, 0.62)),
        scale=float(rng.uniform(0.19, 0.26)),
        turn=float(rng.uniform(-12, 12)),
    )


def _photo(seed: int, scene: "Scene") -> Photo:
    picture = Image.fromarray(_drawing(seed, scene).image)
    return Photo(picture, hashlib.sha256(picture.tobytes()).hexdigest(), Path("world", str(seed)))


def _mask(seed: int, scene: "Scene") -> Image.Image:
    return Image.fromarray(_drawing(seed, scene).mask)


@lru_cache(64)
def _drawing(seed: int, scene: "Scene") -> "Drawing":
    try:
        from pmagic.world.drawing import draw
    except ImportError as error:
        raise _drawing_missing(error) from error
    from pmagic.world.people import person

    return draw([(person(seed), scene)], side=SIDE)


def _drawing_missing(error: ImportError) -> WeightsMissing:
    return WeightsMissing(
        f"the world cannot be drawn: {error}",
        "install its libraries: `pip install opencv-python scikit-image skia-python tokenizers`",
    )
