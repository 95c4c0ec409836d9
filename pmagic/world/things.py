"""Cats, cups and empty places: the small share of the world that has no human face."""

from dataclasses import dataclass

from numpy.random import Generator

from pmagic.world.brush import Brush, curve
from pmagic.world.people import Colour, darker, lighter
from pmagic.world.scenes import STYLE_TAILS, STYLES, Scene, place_words

FURS: dict[str, Colour] = {
    "orange": (225, 140, 60), "black": (50, 48, 52), "white": (240, 238, 232), "gray": (140, 142, 150),
    "brown": (120, 85, 60),
}  # fmt: skip
GLAZES: dict[str, Colour] = {
    "red": (205, 60, 55), "blue": (60, 105, 200), "green": (70, 160, 95), "yellow": (238, 205, 80),
    "white": (242, 242, 240),
}  # fmt: skip
PATTERNS = ("plain", "striped", "spotted")


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A cat or a cup: colour, pattern and the colour of the pattern."""

    kind: str  # "cat" or "cup"
    colour: str
    pattern: str
    accent: Colour
    eyes: Colour
    tall: float


def thing(rng: Generator, kind: str) -> Thing:
    colours = FURS if kind == "cat" else GLAZES
    accents = [darker((150, 90, 50), 0.3), (250, 250, 245), (40, 60, 120)]
    eyes = [(90, 170, 80), (230, 190, 60), (80, 150, 220)]
    return Thing(
        kind=kind,
        colour=str(rng.choice(list(colours))),
        pattern=str(rng.choice(PATTERNS)),
        accent=accents[rng.integers(3)],
        eyes=eyes[rng.integers(3)],
        tall=float(rng.uniform(0.8, 1.2)),
    )


def thing_caption(what: Thing | None, where: Scene, rng: Generator) -> str:
    """A prompt for a cat, a cup or, with None, an empty place."""
    head = STYLES[where.style]
    if where.style in STYLE_TAILS and rng.random() < 0.5:
        return f"a painting in the style of {STYLE_TAILS[where.style]}" + (f" of a {what.kind}" if what else "")
    if what is None:
        return f"{head} scenery {place_words(where)}"
    words = [what.pattern] if what.pattern != "plain" and rng.random() < 0.6 else []
    words += [what.colour] if rng.random() < 0.6 else []
    return f"{head} a {' '.join([*words, what.kind])} {place_words(where)}"


def paint_thing(b: Brush, what: Thing, where: Scene) -> None:
    """Painted and masked like a face, around (where.x, where.y)."""
    b.push(where.x, where.y, where.turn, where.scale)
    (_cat if what.kind == "cat" else _cup)(b, what)
    b.pop()


def _cat(b: Brush, what: Thing) -> None:
    fur, dark = FURS[what.colour], (35, 25, 25)
    b.oval(-0.95, 0.6, 1.9, 1.9, darker(fur, 0.08), mask=True)
    for side in (-1, 1):
        b.polygon([(side * 0.95, -1.15), (side * 0.95, -0.2), (side * 0.2, -0.75)], fur, mask=True)
        b.polygon([(side * 0.85, -0.95), (side * 0.85, -0.4), (side * 0.4, -0.7)], (235, 160, 160))
    b.oval(-1.0, -0.85, 2.0, 1.75 * what.tall, fur, mask=True)
    if what.pattern == "striped":
        for x in (-0.3, 0, 0.3):
            b.line((x, -0.8), (x * 0.8, -0.4), what.accent, 0.11)
    elif what.pattern == "spotted":
        for x, y, r in ((-0.6, -0.3, 0.22), (0.55, 0.4, 0.25), (0.1, -0.6, 0.16)):
            b.circle(x, y, r, what.accent)
    for side in (-1, 1):
        b.oval(side * 0.42 - 0.2, -0.25, 0.4, 0.42, what.eyes)
        b.oval(side * 0.42 - 0.07, -0.24, 0.14, 0.4, dark)
        for k in (-1, 0, 1):
            b.line((side * 0.3, 0.4), (side * 1.1, 0.4 + 0.16 * k), lighter(dark, 0.4), 0.03)
    b.polygon([(-0.13, 0.22), (0.13, 0.22), (0, 0.36)], (230, 120, 130))
    b.path(curve((-0.25, 0.5), (-0.12, 0.62, 0, 0.4), (0.12, 0.62, 0.25, 0.5), closed=False), dark, stroke=0.05)


def _cup(b: Brush, what: Thing) -> None:
    glaze, h = GLAZES[what.colour], 0.9 * what.tall
    b.oval(0.5, -0.45 * what.tall, 0.8, 0.9 * what.tall, darker(glaze, 0.1), stroke=0.2, mask=True)
    b.path(curve((-0.8, -h), (-0.72, h), (-0.4, h + 0.2, 0.4, h + 0.2, 0.72, h), (0.8, -h)), glaze, mask=True)
    if what.pattern == "striped":
        for y in (-0.35, 0.05, 0.45):
            b.rect(-0.77, y, 1.54, 0.17, what.accent)
    elif what.pattern == "spotted":
        for x, y in ((-0.45, -0.3), (0.35, -0.35), (0, 0.1), (-0.4, 0.5), (0.4, 0.5)):
            b.circle(x, y, 0.14, what.accent)
    b.oval(-0.8, -h - 0.17, 1.6, 0.34, lighter(glaze, 0.25), mask=True)
    b.oval(-0.68, -h - 0.11, 1.36, 0.24, (70, 45, 30))
