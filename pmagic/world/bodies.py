"""The body below a head: legs, shoes, torso, arms and hands, in the units of a head (see `faces`)."""

from dataclasses import dataclass

import skia

from pmagic.world.brush import Brush, curve, downward
from pmagic.world.people import Colour, Person, darker, lighter

SHOES: Colour = (52, 40, 36)
# Trousers by clothing; with a shirt they are dark blue. Robes hide the legs down to the shoes.
TROUSERS: dict[str, Colour] = {
    "cowboy": (70, 95, 145), "astronaut": (222, 225, 230), "chef": (75, 75, 82), "pirate": (45, 40, 48),
    "police": (28, 38, 78), "suit": (38, 41, 52), "scarf": (90, 80, 70),
}  # fmt: skip
ROBES = ("wizard", "king")
JEANS: Colour = (58, 70, 105)
GLOVES: dict[str, Colour] = {"astronaut": (150, 155, 165)}
SHOULDER, WAIST = 1.32, 3.45  # heights of the shoulders and of the belt
# Elbow and wrist as distances beside and below the right shoulder: hanging, slightly bent, hand on the hip.
_ARMS = {
    "hanging": ((0.26, 1.12), (0.24, 2.16)),
    "bent": ((0.44, 1.02), (0.26, 2.0)),
    "hip": ((0.86, 0.98), (0.02, 1.72)),
}
_ARM_WIDTH = 0.52


@dataclass(frozen=True)
class Build:
    """The parts of a body that depend on the seed: half the shoulders' width, and each arm's pose, left first."""

    shoulders: float
    arms: tuple[str, str]


def build(seed: int) -> Build:
    """The build for a scene's seed; most arms hang."""
    kinds = ("hanging", "hanging", "bent", "hip")
    return Build(1.22, (kinds[seed % 4], kinds[seed // 4 % 4]))


def torso(shoulders: float) -> skia.Path:
    """The outline of chest and belly, from the neck to the belt."""
    w, low = shoulders, WAIST + 0.1
    return curve(
        (-0.34, 1.06), (-0.5, 1.22, -w * 0.9, 1.2, -w, 1.5), (-w * 0.9, 2.2, -0.86, 2.6, -0.9, low),
        (0, low + 0.12, 0.9, low), (0.86, 2.6, w * 0.9, 2.2, w, 1.5), (w * 0.9, 1.2, 0.5, 1.22, 0.34, 1.06),
    )  # fmt: skip


def paint_legs(b: Brush, clothing: str | None) -> None:
    """Trousers and shoes; they hide a face behind them."""
    trousers = TROUSERS.get(clothing or "", JEANS)
    for side in (-1, 1):
        leg = curve(
            (side * 0.02, WAIST - 0.1), (side * 0.06, 5.72), (side * 0.66, 5.72),
            (side * 0.9, 4.4, side * 0.92, WAIST - 0.1),
        )  # fmt: skip
        b.path(leg, trousers, shader=downward(lighter(trousers, 0.06), darker(trousers, 0.22), 3.4, 5.8), mask=False)
        left = -0.88 if side < 0 else 0.04
        b.rect(left, 5.56, 0.84, 0.36, SHOES, round=0.17, mask=False)
    b.line((0, WAIST + 0.35), (0, 5.6), darker(trousers, 0.45), 0.05)


def paint_robe(b: Brush, cloth: Colour) -> None:
    """A robe from the belt to the shoes."""
    robe = curve((-0.9, WAIST - 0.2), (-1.25, 5.5), (0, 5.75, 1.25, 5.5), (0.9, WAIST - 0.2))
    b.path(robe, cloth, shader=downward(cloth, darker(cloth, 0.3), 3.2, 5.6), mask=False)
    for x in (-0.45, 0.45):
        b.line((x * 0.8, WAIST + 0.2), (x * 1.25, 5.5), darker(cloth, 0.35), 0.05)
    b.rect(-0.92, WAIST - 0.16, 1.84, 0.2, darker(cloth, 0.45), round=0.08, mask=False)


def paint_arms(b: Brush, who: Person, cloth: Colour, clothing: str | None, figure: Build) -> None:
    """Sleeves and hands, in front of the torso; they hide a face behind them."""
    hand = GLOVES.get(clothing or "", who.skin)
    for side, kind in zip((-1, 1), figure.arms, strict=True):
        root = (side * (figure.shoulders - 0.18), SHOULDER + 0.22)
        elbow, wrist = ((root[0] + side * x, root[1] + y) for x, y in _ARMS[kind])
        toward = (wrist[0] - elbow[0], wrist[1] - elbow[1])
        length = (toward[0] ** 2 + toward[1] ** 2) ** 0.5
        palm = (wrist[0] + 0.3 * toward[0] / length, wrist[1] + 0.3 * toward[1] / length)
        b.circle(*palm, 0.27, darker(hand, 0.06), mask=False)
        b.circle(palm[0] - side * 0.24, palm[1] - 0.08, 0.12, darker(hand, 0.06), mask=False)  # the thumb
        bends = (elbow, wrist) if kind == "hip" else ((*elbow, *wrist),)  # a corner, or a curve
        sleeve = curve(root, *bends, closed=False)
        b.path(sleeve, darker(cloth, 0.42), stroke=_ARM_WIDTH + 0.07, mask=False)  # an edge in front of the torso
        b.path(sleeve, darker(cloth, 0.14), stroke=_ARM_WIDTH, mask=False)
