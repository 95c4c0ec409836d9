"""A face and its hair, in the units of a head: origin between the eyes, y downwards, half a head's height is 1."""

import math

import numpy as np
import skia

from pmagic.world.brush import Brush, Point, curve, downward, outline, outward
from pmagic.world.people import Person, darker, lighter, mix

EYE_OPEN = {"neutral": 1.0, "smile": 0.8, "surprise": 1.3, "sad": 0.85, "angry": 0.8, "sleep": 0.0}
BROW_LIFT = {"neutral": 0.0, "smile": -0.02, "surprise": -0.05, "sad": -0.16, "angry": 0.17, "sleep": -0.03}
MOUTH_BEND = {"neutral": 0.05, "sad": -0.2, "angry": -0.12, "sleep": 0.02}


def cap(w: float, line: list[tuple[float, ...]], top=1.16, side=-0.05, wide=1.06) -> skia.Path:
    """The outline of hair over a head of half-width `w`: up one side, over the top, back along the hair `line`."""
    return curve(
        (-w * wide, side), (-w * wide - 0.02, -0.85, -w * 0.75, -top, 0, -top),
        (w * 0.75, -top, w * wide + 0.02, -0.85, w * wide, side), *line,
    )  # fmt: skip


def paint_back_hair(b: Brush, who: Person) -> None:
    """The hair behind the head and neck."""
    w, shade = who.width, darker(who.hair, 0.25)
    if who.hair_style == "long":
        b.rect(-w * 1.22, -1.05, w * 2.44, 2.6, shade, round=0.7, mask=True)
    elif who.hair_style == "bob":
        b.rect(-w * 1.25, -1.1, w * 2.5, 1.9, shade, round=0.58, mask=True)
    elif who.hair_style == "afro":
        b.circle(0, -0.42, 1.22, who.hair, mask=True)
    elif who.hair_style == "bun":
        b.circle(0, -1.25, 0.34, shade, mask=True)
    elif who.hair_style == "curly":
        for k in range(13):
            angle = math.pi * k / 12
            x, y = -w * 1.12 * math.cos(angle), -1.02 * math.sin(angle) - 0.05
            b.circle(x, y, 0.27, who.hair if k % 2 else shade, mask=True)


def paint_front_hair(b: Brush, who: Person) -> None:
    """The hair on the forehead and the top of the head."""
    w, line, part = who.width, who.hair_line, who.parting * who.width
    shine = downward(lighter(who.hair, 0.16), darker(who.hair, 0.25), -1.2, 0.3)
    shapes = {
        "short": lambda: cap(w, [(w * 0.9, line, 0, line), (-w * 0.9, line, -w * 1.06, -0.05)]),
        "bun": lambda: cap(w, [(w * 0.9, line, 0, line), (-w * 0.9, line, -w * 1.06, -0.05)]),
        "parted": lambda: cap(
            w, [(w * 0.95, line + 0.1, part, line - 0.22), (-w * 0.5, line + 0.2, -w * 1.06, -0.05)], 1.24
        ),
        "bob": lambda: cap(w, [(w * 0.98, line + 0.18), (-w * 0.98, line + 0.18), (-w * 1.06, 0.1)], 1.18, 0.1),
        "long": lambda: cap(w, [(w * 0.85, -0.3, part, -0.92), (-w * 0.85, -0.3, -w * 1.06, 0.5)], 1.18, 0.5, 1.1),
        "afro": lambda: cap(w, [(w * 0.8, line, 0, line - 0.05), (-w * 0.8, line, -w * 1.06, -0.05)], 1.1),
        "curly": lambda: cap(w, [(w * 0.8, line, 0, line - 0.05), (-w * 0.8, line, -w * 1.06, -0.05)], 1.1),
        "mohawk": lambda: outline(
            [(-0.2, -0.72), (-0.3, -1.4), (-0.1, -1.3), (0, -1.55), (0.1, -1.3), (0.3, -1.4), (0.2, -0.72)]
        ),
        "spiky": lambda: outline(_spikes(w, line)),
    }
    if who.hair_style in shapes:
        b.path(shapes[who.hair_style](), who.hair, shader=shine, mask=True)


def _spikes(w: float, line: float) -> list[Point]:
    points: list[Point] = [(-w * 1.05, -0.1)]
    for k in range(7):
        x = -w * 1.05 + w * 2.1 * k / 6
        points.append((x * 1.12, -1.45 + 0.35 * abs(x) / w))
        if k < 6:
            points.append((x + w * 0.17, -1.0))
    return [*points, (w * 1.05, -0.1), (w * 0.7, line), (0, line - 0.1), (-w * 0.7, line)]


def paint_head(b: Brush, who: Person, light: float, yaw: float) -> None:
    """Ears and head, with beard, blush, freckles and mole."""
    w, jaw, chin_width, chin = who.width, who.jaw, who.chin_width, who.chin
    for side in (-1, 1):
        b.oval(side * w - who.ear, -0.18, 2 * who.ear, 0.46, darker(who.skin, 0.08), mask=True)
    head = curve(
        (0, -1.05), (w * 0.75, -1.05, w, -0.65, w, -0.1), (w, 0.25, jaw + 0.03, 0.42, jaw, 0.6),
        (jaw - 0.08, 0.82, chin_width, chin, 0, chin), (-chin_width, chin, -jaw + 0.08, 0.82, -jaw, 0.6),
        (-jaw - 0.03, 0.42, -w, 0.25, -w, -0.1), (-w, -0.65, -w * 0.75, -1.05, 0, -1.05),
    )  # fmt: skip
    tones = [lighter(who.skin, 0.14), who.skin, mix(who.skin, (60, 20, 10), 0.30)]
    b.path(head, who.skin, shader=outward(light * 0.4, -0.25, 1.45, tones, [0, 0.5, 1]), mask=True)
    b.push()
    b.clip(head)
    beard, mouth = darker(who.hair, 0.1), who.mouth_height
    if who.beard in ("beard", "stubble"):
        shape = curve(
            (-w, 0.1), (-w * 0.8, 0.45, -0.4, mouth - 0.22, 0, mouth - 0.2),
            (0.4, mouth - 0.22, w * 0.8, 0.45, w, 0.1), (w, 1.3), (-w, 1.3),
        )  # fmt: skip
        b.path(shape, beard, alpha=255 if who.beard == "beard" else 75)
    elif who.beard == "goatee":
        b.oval(-0.28 + yaw, mouth + 0.08, 0.56, 0.62, beard)
    for side in (-1, 1):
        b.circle(side * 0.45 + yaw, 0.35, 0.2, (230, 90, 90), alpha=90 * who.blush)
    if who.freckles:
        spots = np.random.default_rng(int(who.width * 1e6))
        for x, y in zip(spots.uniform(-0.5, 0.5, 12), spots.uniform(0.15, 0.42, 12), strict=True):
            b.circle(x + yaw, y, 0.034, mix(who.skin, (120, 50, 20), 0.6))
    if who.mole:
        b.circle(who.mole[0] + yaw, who.mole[1], 0.062, (60, 30, 20))
    b.pop()


def paint_features(b: Brush, who: Person, expression: str, yaw: float) -> list[Point]:
    """Eyes, brows, nose, mouth. Returns five landmarks (shares of the side): eyes, nose, mouth corners, left first."""
    landmarks = [_eye(b, who, expression, yaw, side) for side in (-1, 1)]
    tip = who.eye_height + 0.12 + who.nose_length
    nose = curve(
        (yaw * 1.8 - 0.03, who.eye_height + 0.1),
        (yaw * 2 - who.nose_width * 0.6, tip - 0.1, yaw * 2 - who.nose_width, tip),
        (yaw * 2, tip + 0.1, yaw * 2 + who.nose_width, tip - 0.01), closed=False,
    )  # fmt: skip
    b.path(nose, mix(who.skin, (70, 20, 10), 0.45), stroke=0.055)
    landmarks.append(b.pixel(yaw * 2, tip))
    _mouth(b, who, expression, yaw * 1.3)
    return landmarks + [b.pixel(yaw * 1.3 + side * who.mouth_width, who.mouth_height) for side in (-1, 1)]


def _eye(b: Brush, who: Person, expression: str, yaw: float, side: int) -> Point:
    x, size, lid = side * who.eye_apart + yaw * 1.4, who.eye_size, (35, 22, 18)
    b.push(x, who.eye_height, side * who.eye_tilt)
    height = size * who.eye_round * EYE_OPEN[expression]
    if height == 0:
        b.arc(-size, -size * 0.6, 2 * size, size * 1.2, 0, 180, lid, 0.07)
    else:
        white = skia.Path()
        white.addOval(skia.Rect.MakeXYWH(-size, -height, 2 * size, 2 * height))
        b.path(white, (250, 250, 250))
        b.push()
        b.clip(white)
        iris = min(size * 0.62, height * 1.05)
        b.circle(yaw, 0, iris, who.iris)
        b.circle(yaw, 0, iris * 0.5, (10, 10, 10))
        b.circle(yaw + 0.05, -0.05, iris * 0.22, (255, 255, 255))
        b.pop()
        b.arc(-size, -height, 2 * size, 2 * height, 180, 180, lid, 0.055)
    b.pop()
    lift = who.brow_angle + BROW_LIFT[expression]
    y = who.eye_height - who.brow_height - (0.1 if expression == "surprise" else 0)
    middle = side * who.eye_apart + yaw * 1.2
    inner, outer = (middle - side * size * 1.05, y + lift), (middle + side * size * 1.15, y - lift * 0.6)
    b.line(inner, outer, darker(who.hair, 0.25), who.brow_thick)
    return b.pixel(x, who.eye_height)


def _mouth(b: Brush, who: Person, expression: str, x: float) -> None:
    w, y, lip = who.mouth_width, who.mouth_height, who.lip_colour
    if expression == "surprise":
        b.oval(x - w * 0.45, y - 0.1, w * 0.9, 0.32, (70, 20, 25))
        b.oval(x - w * 0.45, y - 0.1, w * 0.9, 0.32, lip, stroke=who.lip)
    elif expression == "smile":
        laugh = curve(
            (x - w * 1.15, y - 0.05), (x, y + 0.05, x + w * 1.15, y - 0.05), (x, y + 0.42, x - w * 1.15, y - 0.05)
        )
        b.path(laugh, (250, 248, 245))
        b.path(laugh, lip, stroke=max(who.lip, 0.05))
    else:
        line = curve((x - w, y), (x, y + MOUTH_BEND[expression] * 1.2, x + w, y), closed=False)
        b.path(line, lip, stroke=who.lip * 2)
        b.path(line, mix(lip, (40, 0, 0), 0.6), stroke=0.03)
    if who.beard in ("moustache", "goatee"):
        shape = curve(
            (x, y - 0.2), (x + 0.2, y - 0.24, x + 0.32, y - 0.1, x + 0.42, y - 0.02),
            (x + 0.2, y, x + 0.1, y - 0.04, x, y - 0.07), (x - 0.1, y - 0.04, x - 0.2, y, x - 0.42, y - 0.02),
            (x - 0.32, y - 0.1, x - 0.2, y - 0.24, x, y - 0.2),
        )  # fmt: skip
        b.path(shape, darker(who.hair, 0.1))


def paint_neck(b: Brush, who: Person) -> None:
    b.rect(-0.3, 0.7, 0.6, 0.7, darker(who.skin, 0.18))
