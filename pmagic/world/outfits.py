"""Clothes and hats, in the units of a head: origin between the eyes, y downwards, half a head's height is 1."""

from pmagic.world import bodies
from pmagic.world.brush import Brush, curve, downward
from pmagic.world.faces import cap
from pmagic.world.people import Colour, Person, darker, lighter
from pmagic.world.scenes import SHIRTS

WHITE: Colour = (250, 250, 250)
CLOTH: dict[str | None, Colour] = {
    "cowboy": (150, 95, 55), "astronaut": (232, 234, 238), "chef": (245, 245, 245), "wizard": (70, 50, 140),
    "king": (165, 30, 50), "pirate": (225, 225, 215), "police": (35, 50, 100), "suit": (45, 48, 60),
}  # fmt: skip


def paint_clothes(b: Brush, outfit: str | None, shirt: str) -> None:
    """Shoulders and chest; they hide a face behind them."""
    cloth = cloth_of(outfit, shirt)
    body = curve(
        (-1.55, 2.6), (-1.5, 1.4, -1.0, 1.28, -0.38, 1.14), (-0.2, 1.35, 0.2, 1.35, 0.38, 1.14),
        (1.0, 1.28, 1.5, 1.4, 1.55, 2.6),
    )  # fmt: skip
    b.path(body, cloth, shader=downward(lighter(cloth, 0.12), darker(cloth, 0.2), 1.1, 2.2), mask=False)
    _paint_details(b, outfit)


def paint_body(b: Brush, who: Person, clothing: str | None, shirt: str, seed: int) -> None:
    """The whole body in its clothes: legs, torso, arms and hands; they hide a face behind them."""
    cloth, figure = cloth_of(clothing, shirt), bodies.build(seed)
    bodies.paint_legs(b, clothing)
    if clothing in bodies.ROBES:
        bodies.paint_robe(b, cloth)
    torso = bodies.torso(figure.shoulders)
    b.path(torso, cloth, shader=downward(lighter(cloth, 0.12), darker(cloth, 0.2), 1.1, 3.4), mask=False)
    b.push()
    b.clip(torso)
    _paint_details(b, clothing, stripes=7)
    b.pop()
    if clothing == "scarf":  # lies on the neck, too
        _paint_details(b, clothing)
    bodies.paint_arms(b, who, cloth, clothing, figure)


def cloth_of(outfit: str | None, shirt: str) -> Colour:
    return CLOTH.get(outfit) or SHIRTS[shirt]


def _paint_details(b: Brush, outfit: str | None, stripes: int = 3) -> None:
    """The details on the cloth. stripes: how many a pirate's shirt has."""
    if outfit == "suit":
        b.polygon([(-0.36, 1.15), (0, 2.0), (0.36, 1.15), (0, 1.32)], WHITE)
        b.polygon([(-0.1, 1.32), (0.1, 1.32), (0.07, 1.9), (-0.07, 1.9)], (180, 35, 45))
    elif outfit == "cowboy":
        b.polygon([(-0.6, 1.18), (0.6, 1.18), (0, 1.75)], (200, 40, 40))
    elif outfit == "chef":
        for k in range(3):
            for x in (-0.15, 0.15):
                b.circle(x, 1.5 + 0.22 * k, 0.05, (60, 60, 60))
        b.polygon([(-0.45, 1.12), (0.45, 1.12), (0, 1.5)], (205, 60, 50))
    elif outfit == "king":
        fur = [(-1.2, 1.32), (-0.38, 1.12), (0.38, 1.12), (1.2, 1.32), (1.2, 1.55), (-1.2, 1.55)]
        b.polygon(fur, (248, 246, 238))
        for x in (-0.8, -0.3, 0.2, 0.7):
            b.circle(x, 1.42, 0.05, (30, 30, 30))
    elif outfit == "police":
        b.polygon([(0.5, 1.5), (0.75, 1.5), (0.72, 1.75), (0.62, 1.85), (0.53, 1.75)], (235, 200, 70))
        b.polygon([(-0.06, 1.3), (0.06, 1.3), (0.05, 1.9), (-0.05, 1.9)], (15, 20, 40))
    elif outfit == "pirate":
        for k in range(stripes):
            b.rect(-1.5, 1.4 + 0.26 * k, 3, 0.13, (190, 45, 45))
    elif outfit == "astronaut":
        b.oval(-0.75, 1.02, 1.5, 0.4, (170, 175, 185))
        b.rect(-0.3, 1.6, 0.6, 0.3, (60, 90, 170))
    elif outfit == "scarf":
        b.rect(-0.62, 0.98, 1.24, 0.38, (205, 40, 45), round=0.18)
        b.rect(0.2, 1.2, 0.3, 0.8, (185, 30, 35), round=0.1)


def paint_headwear(b: Brush, outfit: str | None, who: Person) -> None:
    """Hats, helmets and headphones, drawn last; hats hide the parts of the face that they cover."""
    if outfit == "cowboy":
        crown = [(-0.72, -0.78), (-0.62, -1.62), (-0.2, -1.5), (0, -1.42), (0.2, -1.5), (0.62, -1.62), (0.72, -0.78)]
        b.polygon(crown, (125, 78, 42), mask=False)
        b.oval(-1.45, -0.98, 2.9, 0.42, (140, 90, 50), mask=False)
        b.rect(-0.7, -0.98, 1.4, 0.14, (70, 40, 20))
    elif outfit == "astronaut":
        b.circle(0, -0.02, 1.32, (235, 238, 242), stroke=0.2, mask=False)
        b.circle(0, -0.02, 1.24, (190, 220, 250), alpha=38)
        b.arc(-1.05, -1.1, 2.1, 2.1, 200, 60, WHITE, 0.07, alpha=200)
    elif outfit == "chef":
        for x, y in ((-0.5, -1.3), (0, -1.5), (0.5, -1.3)):
            b.circle(x, y, 0.42, WHITE, mask=False)
        b.rect(-0.7, -1.25, 1.4, 0.55, (238, 238, 240), mask=False)
    elif outfit == "wizard":
        b.polygon([(-0.8, -0.8), (0.15, -2.1), (0.8, -0.8)], (65, 45, 150), mask=False)
        b.oval(-1.25, -0.95, 2.5, 0.36, (55, 38, 125), mask=False)
        for x, y in ((-0.2, -1.15), (0.25, -1.35), (0.1, -1.75)):
            b.circle(x, y, 0.07, (250, 220, 90))
    elif outfit == "king":
        crown = [(-0.75, -0.75), (-0.85, -1.45), (-0.4, -1.1), (0, -1.6), (0.4, -1.1), (0.85, -1.45), (0.75, -0.75)]
        b.polygon(crown, (245, 200, 60), mask=False)
        for x, c in ((-0.4, (200, 30, 50)), (0, (40, 80, 200)), (0.4, (200, 30, 50))):
            b.circle(x, -0.9, 0.08, c)
    elif outfit == "pirate":
        brim = [(-1.3, -0.7), (-1.0, -1.2), (0, -1.65), (1.0, -1.2), (1.3, -0.7), (0, -0.85)]
        b.polygon(brim, (25, 22, 28), mask=False)
        b.circle(0, -1.2, 0.17, (245, 245, 240))
        b.line((-0.25, -1.02), (0.25, -0.95), (245, 245, 240), 0.06)
    elif outfit == "police":
        top = [(-1.0, -1.25), (-0.5, -1.5), (0.5, -1.5), (1.0, -1.25), (0.78, -0.85), (-0.78, -0.85)]
        b.polygon(top, (35, 50, 105), mask=False)
        b.oval(-0.8, -0.95, 1.6, 0.3, (15, 18, 30), mask=False)
        b.circle(0, -1.15, 0.14, (240, 205, 70))
    elif outfit == "santa":
        hat = [(-0.82, -0.72), (-0.5, -1.35), (0.3, -1.75), (1.15, -1.1), (0.7, -1.2), (0.82, -0.72)]
        b.polygon(hat, (205, 30, 40), mask=False)
        b.rect(-0.95, -0.95, 1.9, 0.36, WHITE, round=0.18, mask=False)
        b.circle(1.15, -1.05, 0.2, WHITE, mask=False)
    elif outfit == "beanie":
        w = who.width
        b.path(cap(w, [(-w * 1.06, -0.5)], 1.35, -0.5, 1.1), (55, 100, 200), mask=False)
        b.rect(-w * 1.15, -0.75, w * 2.3, 0.3, (80, 130, 225), round=0.1, mask=False)
        b.circle(0, -1.4, 0.18, (240, 240, 245), mask=False)
    elif outfit == "headphones":
        w = who.width
        b.arc(-w * 1.15, -1.3, w * 2.3, 2.3, 190, 160, (40, 40, 48), 0.14)
        for side in (-1, 1):
            b.rect(side * w * 1.1 - 0.17, -0.3, 0.34, 0.62, (225, 60, 60), round=0.12)


def paint_eyewear(b: Brush, outfit: str | None, who: Person, yaw: float) -> None:
    """The person's own glasses, or sunglasses in their place."""
    y, apart, x0 = who.eye_height, who.eye_apart, yaw * 1.4
    if outfit == "sunglasses":
        for side in (-1, 1):
            b.rect(side * apart + x0 - 0.35, y - 0.24, 0.7, 0.5, (15, 15, 20), round=0.18)
            b.line((side * apart - 0.2, y - 0.1), (side * apart - 0.05, y - 0.16), (150, 160, 180), 0.05)
        b.line((-who.width, y - 0.1), (who.width, y - 0.1), (15, 15, 20), 0.07)
    elif who.glasses != "none":
        for side in (-1, 1):
            frame = (side * apart + x0 - 0.3, y - 0.25, 0.6, 0.5, who.glasses_colour)
            (b.oval if who.glasses == "round glasses" else b.rect)(*frame, stroke=0.065)
        b.line((-apart + 0.3 + x0, y), (apart - 0.3 + x0, y), who.glasses_colour, 0.065)
