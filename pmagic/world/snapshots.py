"""Scenes of version 2 of the world: people in any layout, alone, in pairs, or with a thing."""

from dataclasses import replace
from typing import TypedDict

from numpy.random import Generator

from pmagic.world.garments import dress, held_out_style
from pmagic.world.layouts import (
    FRAMING_SHARES,
    FRAMINGS,
    SIDES,
    framing_of,
    layout,
    random_side,
    side_of,
)
from pmagic.world.scenes import COLOURS, EXPRESSION_SHARES, EXPRESSIONS, PLACES, STYLE_SHARES, STYLES, Scene, rng_for

PATTERNS = ("plain", "striped", "spotted")
PATTERN_SHARES = (0.5, 0.25, 0.25)
# The vignette makes the background show where the figure stands. Without it, side and framing together explain 2 % of
# the differences between pictures of one place and style, which a base learns very slowly; with a strength of 0.4, 9 %.
VIGNETTE = (0.35, 0.6)
PORTRAIT_FRAMINGS = {"close": 0.3, "bust": 0.5, "half": 0.2}
PORTRAIT_TILT = 6.0  # degrees
_PORTRAITS, _UNSEEN = 104, 105  # keys of random numbers


class Background(TypedDict):
    """The fields of a Scene for the background."""

    place: str
    pattern: str
    vignette: float


def background(rng: Generator) -> Background:
    """A random place, or a colour that may have a pattern; darker away from the figure."""
    vignette = float(rng.uniform(*VIGNETTE))
    if rng.random() < 0.55:
        return {"place": str(rng.choice(list(PLACES))), "pattern": "plain", "vignette": vignette}
    colour, pattern = str(rng.choice(list(COLOURS))), str(rng.choice(PATTERNS, p=PATTERN_SHARES))
    return {"place": colour, "pattern": pattern, "vignette": vignette}


def snapshot(rng: Generator) -> Scene:
    """One scene at random, of combinations that are not held out."""
    framing = str(rng.choice(FRAMINGS, p=FRAMING_SHARES))
    behind = background(rng)
    style = str(rng.choice(list(STYLES), p=STYLE_SHARES))
    return Scene(
        style="photo" if held_out_style(behind["place"], style) else style,
        expression=str(rng.choice(list(EXPRESSIONS), p=EXPRESSION_SHARES)),
        yaw=float(rng.normal(0, 0.06)),
        light=float(rng.uniform(-1, 1)),
        seed=int(rng.integers(1 << 30)),
        body=True,
        **behind,
        **dress(rng),
        **layout(rng, framing, random_side(rng, framing)),
    )


def snapshot_pair(rng: Generator) -> tuple[Scene, Scene]:
    """Two people beside each other in one place, left first, each at a height and size of its own."""
    first, second = snapshot(rng), snapshot(rng)
    x, gap = rng.uniform(0.22, 0.38), rng.uniform(0.36, 0.48)
    places = [
        {"x": float(column), "y": float(rng.uniform(0.34, 0.62)), "scale": float(rng.uniform(0.14, 0.215))}
        for column in (x, x + gap)
    ]
    shared = ("style", "place", "pattern", "vignette", "light")
    common = {key: getattr(first, key) for key in shared}
    return replace(first, **places[0]), replace(second, **common, **places[1])


def beside(where: Scene, rng: Generator) -> tuple[Scene, Scene]:
    """The scene of a person, and that of a thing on the other side."""
    side = "left" if rng.random() < 0.5 else "right"
    framing = "bust" if framing_of(where) == "close" else framing_of(where)
    figure = replace(where, **layout(rng, framing, side))
    x = rng.uniform(0.66, 0.80) if side == "left" else rng.uniform(0.20, 0.34)
    thing = replace(
        where,
        x=float(x),
        y=float(rng.uniform(0.70, 0.82)),
        scale=float(rng.uniform(0.11, 0.16)),
        turn=float(rng.normal(0, 4)),
    )
    return figure, thing


def thing_alone(where: Scene, rng: Generator) -> Scene:
    """A thing of any size on any side, near the middle of the height."""
    framing = str(rng.choice(("bust", "half")))
    return replace(
        where, **layout(rng, framing, str(rng.choice(SIDES)), tilt=4.0) | {"y": float(rng.uniform(0.42, 0.66))}
    )


def portrait(seed: int) -> Scene:
    """The scene of the photo that a person is learned from: in one of many layouts, by the person's seed."""
    return _portrait(rng_for(_PORTRAITS, seed), "neutral")


def unseen_portrait(seed: int) -> Scene:
    """Another photo of the same person, smiling, of another framing and side than `portrait`."""
    learned, rng = portrait(seed), rng_for(_UNSEEN, seed)
    while True:
        where = _portrait(rng, "smile")
        if framing_of(where) != framing_of(learned) and side_of(where) != side_of(learned):
            return where


def _portrait(rng: Generator, expression: str) -> Scene:
    framing = str(rng.choice(list(PORTRAIT_FRAMINGS), p=list(PORTRAIT_FRAMINGS.values())))
    return Scene(
        expression=expression,
        shirt=str(dress(rng)["shirt"]),
        yaw=float(rng.normal(0, 0.04)),
        light=float(rng.uniform(-0.6, 0.6)),
        seed=int(rng.integers(1 << 30)),
        body=True,
        **background(rng),
        **layout(rng, framing, random_side(rng, framing), PORTRAIT_TILT),
    )
