"""The world's versions by number: the shipped weights were trained on 1; 2 has people in any layout."""

from collections.abc import Callable
from dataclasses import dataclass

from numpy.random import Generator

from pmagic.world.captions import snapshot_caption
from pmagic.world.scenes import PORTRAIT, Scene, caption, pair_scenes, scene
from pmagic.world.snapshots import portrait, snapshot, snapshot_pair


@dataclass(frozen=True)
class World:
    """One version: its pictures and their captions."""

    side: int  # pixels of a picture that a base is trained on
    scene: Callable[[Generator], Scene]  # of one person, at random
    pair: Callable[[Generator], tuple[Scene, Scene]]  # of two people, left first
    caption: Callable[..., str]  # (person, scene, generator, name=None, traits=False)
    portrait: Callable[[int], Scene]  # of the photo that the person of a seed is learned from


WORLDS = {
    1: World(64, scene, pair_scenes, caption, lambda seed: PORTRAIT),
    2: World(96, snapshot, snapshot_pair, snapshot_caption, portrait),
}
