"""Draws people, things and scenes as pictures, with exact masks and landmarks."""

from dataclasses import dataclass

import cv2
import numpy as np

from pmagic.world.brush import FACES, THINGS, Brush, Point
from pmagic.world.faces import paint_back_hair, paint_features, paint_front_hair, paint_head, paint_neck
from pmagic.world.outfits import paint_body, paint_clothes, paint_eyewear, paint_headwear
from pmagic.world.people import Person
from pmagic.world.places import paint_place
from pmagic.world.scenes import Scene
from pmagic.world.styles import restyle
from pmagic.world.things import Thing, paint_thing

SIDE = 64  # pixels of a picture
OVERSAMPLE = 2  # drawn at SIDE * OVERSAMPLE and averaged down


@dataclass(frozen=True)
class Drawing:
    """A picture with its masks and landmarks."""

    image: np.ndarray  # (side, side, 3) uint8 RGB
    mask: np.ndarray  # (side, side) uint8, 255 where a face or, without people, the thing is visible
    landmarks: np.ndarray  # (figures, 5, 2) x, y in shares of the side: eyes, nose, mouth corners
    thing_mask: np.ndarray  # (side, side) uint8, 255 where the thing is visible


def draw(
    figures: list[tuple[Person, Scene]], thing: tuple[Thing | None, Scene] | None = None, side: int = SIDE
) -> Drawing:
    """Draw people (one or two), a thing, or both. Place, style and seed: of the thing's or the first scene.

    side: pixels of the result. The same arguments always give the same picture.
    """
    where = thing[1] if thing else figures[0][1]
    rng = np.random.default_rng(where.seed)
    brush = Brush(side * OVERSAMPLE)
    paint_place(brush, where.place, rng, where.pattern)
    if where.vignette:
        _light(brush, [scene for _, scene in figures] or [where], where.vignette)
    landmarks = [_figure(brush, who, scene) for who, scene in figures]
    if thing and thing[0]:
        brush.layer = THINGS
        paint_thing(brush, thing[0], where)
    picture = brush.image()
    if where.style != "photo":  # the filters' sizes are in pixels, made for this resolution
        picture = restyle(_resize(picture, SIDE * OVERSAMPLE), where.style, rng)
    faces, things = (_resize(brush.mask(layer), side) for layer in (FACES, THINGS))
    points = np.array(landmarks, np.float32).reshape(-1, 5, 2)
    return Drawing(_resize(picture, side), faces if figures else things, points, things)


def _light(brush: Brush, scenes: list[Scene], strength: float) -> None:
    """Makes the background darker away from the figures, as with a photographer's light on them."""
    columns, rows = [each.x for each in scenes], [each.y + 0.6 * each.scale for each in scenes]
    reach = max(each.scale for each in scenes) + (max(columns) - min(columns)) / 2
    brush.vignette(sum(columns) / len(columns), sum(rows) / len(rows), reach, 0.25 + 1.6 * reach, strength)


def _resize(picture: np.ndarray, side: int) -> np.ndarray:
    shrinks = side <= picture.shape[0]
    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _figure(brush: Brush, who: Person, where: Scene) -> list[Point]:
    """One whole figure, back to front; returns its five landmarks."""
    brush.push(where.x, where.y, where.turn, where.scale)
    paint_back_hair(brush, who)
    paint_neck(brush, who)
    if where.body:
        paint_body(brush, who, where.clothing or where.outfit, where.shirt, where.seed)
    else:
        paint_clothes(brush, where.clothing or where.outfit, where.shirt)
    paint_head(brush, who, where.light, where.yaw)
    landmarks = paint_features(brush, who, where.expression, where.yaw)
    paint_front_hair(brush, who)
    paint_eyewear(brush, where.eyewear or where.outfit, who, where.yaw)
    paint_headwear(brush, where.headwear or where.outfit, who)
    brush.pop()
    return landmarks
