"""Layout: how much of a figure a picture shows (framing), on which side it stands, and how far it leans (tilt)."""

from dataclasses import replace
from typing import TypedDict

from numpy.random import Generator

from pmagic.world.scenes import Scene

FRAMINGS = ("close", "bust", "half", "full")
FRAMING_SHARES = (0.25, 0.30, 0.27, 0.18)
SIDES = ("left", "middle", "right")
SCALES = {"close": (0.36, 0.46), "bust": (0.24, 0.33), "half": (0.165, 0.215), "full": (0.118, 0.140)}
_HEIGHTS = {"close": (0.45, 0.58), "bust": (0.40, 0.62), "half": (0.30, 0.50), "full": (0.20, 0.27)}
_COLUMNS = {"left": (0.18, 0.37), "middle": (0.42, 0.58), "right": (0.63, 0.82)}
_CLOSE_COLUMNS = {"left": (0.30, 0.37), "middle": (0.42, 0.58), "right": (0.63, 0.70)}
_LIMITS = {"close": 0.345, "bust": 0.2275, "half": 0.1525}  # halfway between two ranges of scales
TILT = 7.0  # degrees, standard deviation


class Layout(TypedDict):
    """The fields of a Scene for the figure's position: lengths are shares of the side, angles degrees."""

    x: float
    y: float
    scale: float
    turn: float


def layout(rng: Generator, framing: str, side: str, tilt: float = TILT) -> Layout:
    """A random position for a figure with this framing, on this side."""
    x = rng.uniform(*(_CLOSE_COLUMNS if framing == "close" else _COLUMNS)[side])
    y, scale, turn = rng.uniform(*_HEIGHTS[framing]), rng.uniform(*SCALES[framing]), rng.normal(0, tilt)
    return {"x": float(x), "y": float(y), "scale": float(scale), "turn": float(turn)}


def random_side(rng: Generator, framing: str) -> str:
    """A random side, a third each; a close-up is mostly in the middle."""
    return str(rng.choice(SIDES, p=(0.15, 0.70, 0.15) if framing == "close" else (1 / 3, 1 / 3, 1 / 3)))


def framing_of(where: Scene) -> str:
    """The framing in whose range the scale lies, or the nearest."""
    return next((each for each in ("close", "bust", "half") if where.scale > _LIMITS[each]), "full")


def side_of(where: Scene) -> str:
    return "left" if where.x < 0.395 else "right" if where.x > 0.605 else "middle"


def mirror(where: Scene) -> Scene:
    """The figure on the other side, with the opposite tilt, on the same background."""
    return replace(where, x=1 - where.x, turn=-where.turn)


def other_layout(where: Scene, rng: Generator) -> Scene:
    """The same scene in another layout: mirrored, or of another framing where the figure stands in the middle."""
    framings = [each for each in FRAMINGS if each != framing_of(where)]
    other = replace(where, **layout(rng, str(rng.choice(framings)), "middle"))
    return other if side_of(where) == "middle" else mirror(where)
