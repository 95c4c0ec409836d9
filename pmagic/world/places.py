"""Backgrounds: eight places, one function each and easy to tell apart, and seven plain colours."""

from numpy.random import Generator

from pmagic.world.brush import Brush, downward
from pmagic.world.people import Colour, darker, lighter
from pmagic.world.scenes import COLOURS

BLACK: Colour = (0, 0, 0)


def _beach(b: Brush, rng: Generator) -> None:
    horizon = rng.uniform(0.40, 0.5)
    shore = horizon + rng.uniform(0.12, 0.2)
    b.fill(BLACK, downward((110, 190, 245), (200, 235, 255), 0, 0.5))
    b.rect(0, horizon, 1, 0.6, BLACK, shader=downward((25, 110, 185), (70, 190, 210), horizon, horizon + 0.2))
    b.rect(0, shore, 1, 1, (240, 215, 150))
    b.rect(0, shore - 0.012, 1, 0.02, (250, 250, 250))
    b.circle(rng.uniform(0.08, 0.92), rng.uniform(0.06, 0.16), 0.07, (255, 240, 150))
    if rng.random() < 0.6:
        x = rng.choice([rng.uniform(0.05, 0.14), rng.uniform(0.86, 0.95)])
        b.rect(x - 0.015, 0.3, 0.03, 0.5, (120, 80, 45))
        for k in range(5):
            b.push(x, 0.3, k * 72 + rng.uniform(0, 30))
            b.oval(0, -0.03, 0.18, 0.06, (40, 140, 60))
            b.pop()


def _snow(b: Brush, rng: Generator) -> None:
    b.fill(BLACK, downward((150, 180, 215), (225, 235, 245), 0, 0.6))
    for x in rng.uniform(0, 1, 4):
        h = rng.uniform(0.2, 0.45)
        b.polygon([(x - 0.14, 0.72), (x, 0.72 - h), (x + 0.14, 0.72)], (60, 110, 95))
        b.polygon([(x - 0.06, 0.72 - h * 0.55), (x, 0.72 - h), (x + 0.06, 0.72 - h * 0.55)], (245, 250, 255))
    b.oval(-0.3, 0.62, 1.6, 0.9, (245, 248, 252))
    for _ in range(24):
        b.circle(rng.uniform(0, 1), rng.uniform(0, 0.8), rng.uniform(0.009, 0.016), (255, 255, 255))


def _jungle(b: Brush, rng: Generator) -> None:
    b.fill(BLACK, downward((40, 110, 60), (20, 60, 35)))
    for x in rng.uniform(0, 1, 4):
        b.rect(x, 0, rng.uniform(0.02, 0.05), 1, (75, 55, 35))
    for _ in range(22):
        green = rng.uniform(70, 175)
        b.push(rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0, 360))
        b.oval(-0.12, -0.04, 0.24, 0.08, (green * 0.35, green, green * 0.4))
        b.pop()


def _city(b: Brush, rng: Generator) -> None:
    b.fill(BLACK, downward((245, 180, 140), (250, 220, 190), 0, 0.7))
    x = -0.02
    while x < 1:
        w, h, gray = rng.uniform(0.1, 0.2), rng.uniform(0.35, 0.85), rng.uniform(55, 110)
        b.rect(x, 1 - h, w, h, (gray, gray + 5, gray + 22))
        for row in range(int((h - 0.06) / 0.075)):
            for column in range(int((w - 0.02) / 0.05)):
                if rng.random() < 0.6:
                    b.rect(x + 0.02 + 0.05 * column, 1.04 - h + 0.075 * row, 0.028, 0.036, (255, 230, 130))
        x += w + 0.005


def _night(b: Brush, rng: Generator) -> None:
    b.fill(BLACK, downward((10, 12, 45), (45, 35, 95)))
    for _ in range(36):
        b.circle(rng.uniform(0, 1), rng.uniform(0, 0.85), rng.uniform(0.006, 0.012), (255, 255, 235))
    x, y = rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.2)
    b.circle(x, y, 0.08, (250, 245, 200))
    b.circle(x + 0.035, y - 0.02, 0.07, (18, 18, 55))
    b.oval(-0.2, 0.8, 1.4, 0.5, (15, 25, 30))


def _library(b: Brush, rng: Generator) -> None:
    books = [(150, 50, 45), (50, 80, 130), (60, 110, 70), (190, 150, 80), (110, 60, 110), (210, 200, 180)]
    b.fill((95, 60, 35))
    for shelf in range(5):
        y, x = shelf * 0.22 + 0.01, 0.0
        b.rect(0, y + 0.19, 1, 0.03, (60, 36, 20))
        while x < 1:
            w, h = rng.uniform(0.04, 0.075), rng.uniform(0.13, 0.185)
            b.rect(x, y + 0.19 - h, w - 0.006, h, books[rng.integers(6)])
            x += w


def _desert(b: Brush, rng: Generator) -> None:
    b.fill(BLACK, downward((250, 170, 90), (255, 220, 150), 0, 0.6))
    b.circle(rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.25), 0.09, (255, 245, 190))
    b.oval(-0.5, 0.5, 1.2, 0.9, (215, 150, 85))
    b.oval(0.2, 0.56, 1.4, 0.9, (195, 125, 65))
    green = (60, 125, 65)
    for side in (0, 1):
        x, y = rng.uniform(0.03, 0.2) + 0.77 * side, rng.uniform(0.45, 0.6)
        b.line((x, y + 0.2), (x, y - 0.15), green, 0.05)
        for sign, foot in ((-1, 0.0), (1, 0.03)):
            b.line((x, y + foot), (x + sign * 0.08, y + foot - 0.03), green, 0.04)
            b.line((x + sign * 0.08, y + foot - 0.03), (x + sign * 0.08, y - 0.09), green, 0.04)


def _space(b: Brush, rng: Generator) -> None:
    b.fill((8, 5, 20))
    for _ in range(5):
        colour = (90, 30, 130) if rng.random() < 0.5 else (20, 60, 130)
        b.circle(rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.1, 0.25), colour, alpha=45)
    for _ in range(34):
        b.circle(rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.005, 0.011), (255, 255, 255))
    x, y = rng.choice([rng.uniform(0.1, 0.2), rng.uniform(0.8, 0.9)]), rng.uniform(0.12, 0.35)
    b.circle(x, y, 0.1, [(220, 140, 80), (120, 190, 200), (200, 90, 90)][rng.integers(3)])
    b.push(x, y, -20)
    b.oval(-0.17, -0.035, 0.34, 0.07, (235, 215, 170), stroke=0.02)
    b.pop()


def _pattern(b: Brush, c: Colour, pattern: str, rng: Generator) -> None:
    dark = darker(c, 0.22)
    if pattern == "striped":
        width = rng.uniform(0.07, 0.11)
        for k in range(int(1 / width / 2) + 1):
            b.rect(2 * k * width + 0.02, 0, width, 1, dark)
    elif pattern == "spotted":
        step = rng.uniform(0.15, 0.2)
        for row in range(int(1 / step) + 2):
            for column in range(int(1 / step) + 2):
                b.circle((column + row % 2 / 2) * step, row * step, step * 0.26, dark)


_PLACES = {
    "beach": _beach, "snow": _snow, "jungle": _jungle, "city": _city,
    "night": _night, "library": _library, "desert": _desert, "space": _space,
}  # fmt: skip


def paint_place(b: Brush, place: str, rng: Generator, pattern: str = "plain") -> None:
    """Fill the picture with a place or a colour by its name in `scenes`; a colour may be striped or spotted."""
    if place in COLOURS:
        c = COLOURS[place]
        b.fill(c, downward(lighter(c, 0.15), darker(c, 0.12)))
        _pattern(b, c, pattern, rng)
    else:
        _PLACES[place](b, rng)
