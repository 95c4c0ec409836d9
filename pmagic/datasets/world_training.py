"""People of the drawn world's training range: choose settings on these, and measure results on those of `world`.

The miniature has seen each of them a few times at most.
"""

from pathlib import Path

from pmagic.datasets import Individual, world

WANTED, WHERE, PROMPTS, PHOTOS = world.WANTED, world.WHERE, world.PROMPTS, world.PHOTOS
fetches, panel, left_out = world.fetches, world.panel, world.left_out
FIRST, PEOPLE = 30_000, 2_000  # seeds


def people(root: Path | None, photos: str = world.PORTRAITS) -> list[Individual]:
    """Raises as `world.people`."""
    return world.individuals(root, range(FIRST, FIRST + PEOPLE), photos)
