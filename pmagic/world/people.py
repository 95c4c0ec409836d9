"""Drawn people: their facial traits, the words for these, and invented names."""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.random import Generator

Colour = tuple[float, float, float]

SKIN_TONES: tuple[Colour, ...] = (
    (255, 224, 196), (243, 202, 165), (226, 174, 128), (193, 134, 90), (141, 88, 55), (92, 56, 38),
)  # fmt: skip
TONE_WORDS = ("pale", "light", "tan", "brown", "dark")
HAIR_COLOURS: dict[str, Colour] = {
    "black": (25, 20, 20), "brown": (80, 48, 26), "chestnut": (130, 80, 42), "blond": (232, 196, 110),
    "red": (178, 64, 30), "gray": (150, 150, 155), "white": (238, 238, 238), "blue": (60, 90, 200),
    "pink": (220, 80, 150), "green": (50, 150, 90), "purple": (120, 60, 170),
}  # fmt: skip
NATURAL_HAIR = 7  # the first seven colours are common, the others rare
HAIR_STYLES = ("bald", "short", "parted", "bob", "long", "afro", "mohawk", "bun", "curly", "spiky")
EYE_COLOURS: dict[str, Colour] = {
    "dark": (60, 40, 25), "brown": (115, 75, 35), "green": (60, 125, 60), "blue": (60, 120, 195),
    "gray": (115, 125, 135),
}  # fmt: skip
BEARDS = ("none", "stubble", "goatee", "beard", "moustache")
GLASSES = ("none", "round glasses", "square glasses")

# Seeds of people. Training uses seeds below HELD_OUT only; measurements use seeds from HELD_OUT on.
NAMED = 300
HELD_OUT = 5_000_000

_ONSETS = ("b", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z")
_VOWELS = ("a", "e", "i", "o", "u")
_ENDINGS = ("n", "ra", "lo", "s", "mi")


def _invent_names(count: int) -> tuple[str, ...]:
    names = [a + v + b + w + e for e in _ENDINGS for w in _VOWELS for b in _ONSETS for v in _VOWELS for a in _ONSETS]
    return tuple(names[int(i)] for i in np.random.default_rng(17).choice(len(names), count, replace=False))


NAMES = _invent_names(NAMED)  # NAMES[k] is the name of person(k)


@dataclass(frozen=True, kw_only=True)
class Person:
    """Facial traits in units of half a head's height, origin between the eyes; colours are RGB 0..255."""

    tone: float  # 0 pale .. 5 dark
    skin: Colour
    width: float
    jaw: float
    chin_width: float
    chin: float
    eye_size: float
    eye_round: float
    eye_apart: float
    eye_height: float
    eye_tilt: float  # degrees
    iris: Colour
    iris_word: str
    brow_thick: float
    brow_angle: float
    brow_height: float
    nose_length: float
    nose_width: float
    mouth_width: float
    mouth_height: float
    lip: float
    lip_colour: Colour
    hair: Colour
    hair_word: str
    hair_style: str
    hair_line: float
    parting: float
    beard: str
    glasses: str
    glasses_colour: Colour
    freckles: bool
    mole: tuple[float, float] | None
    ear: float
    blush: float


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`a` with `share` of `b` in it."""
    return tuple(float(x + (y - x) * share) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def darker(c: Colour, share: float) -> Colour:
    return mix(c, (0, 0, 0), share)


def lighter(c: Colour, share: float) -> Colour:
    return mix(c, (255, 255, 255), share)


def _near(c: Colour, spread: float, rng: Generator) -> Colour:
    return tuple(float(x) for x in np.clip(np.array(c) + rng.normal(0, spread, 3), 0, 255))  # type: ignore[return-value]


def person(seed: int) -> Person:
    """The person of this seed. Seeds below `NAMED` have a name; seeds from `HELD_OUT` are never trained on."""
    rng = np.random.default_rng([20261, seed])
    u = lambda low, high: float(rng.uniform(low, high))  # noqa: E731
    tone = u(0, 5)
    below = min(int(tone), 4)
    skin = _near(mix(SKIN_TONES[below], SKIN_TONES[below + 1], tone - below), 5, rng)
    width = u(0.66, 0.92)
    colours = list(HAIR_COLOURS)
    hair_word = colours[int(rng.integers(len(colours) if rng.random() < 0.5 else NATURAL_HAIR))]
    iris_word = list(EYE_COLOURS)[int(rng.integers(len(EYE_COLOURS)))]
    return Person(
        tone=tone,
        skin=skin,
        width=width,
        jaw=width * u(0.70, 0.97),
        chin_width=width * u(0.25, 0.62),
        chin=u(0.94, 1.14),
        eye_size=u(0.17, 0.28),
        eye_round=u(0.55, 0.98),
        eye_apart=width * u(0.40, 0.52),
        eye_height=u(-0.12, 0.04),
        eye_tilt=u(-14, 14),
        iris=_near(EYE_COLOURS[iris_word], 6, rng),
        iris_word=iris_word,
        brow_thick=u(0.035, 0.13),
        brow_angle=u(-0.09, 0.09),
        brow_height=u(0.24, 0.36),
        nose_length=u(0.22, 0.44),
        nose_width=u(0.09, 0.24),
        mouth_width=u(0.22, 0.42),
        mouth_height=u(0.50, 0.60),
        lip=u(0.03, 0.11),
        lip_colour=_near(mix(skin, (190, 50, 60), u(0.25, 0.85)), 5, rng),
        hair=_near(HAIR_COLOURS[hair_word], 8, rng),
        hair_word=hair_word,
        hair_style=str(rng.choice(HAIR_STYLES, p=[0.08, 0.13, 0.12, 0.12, 0.14, 0.09, 0.07, 0.07, 0.10, 0.08])),
        hair_line=u(-0.72, -0.48),
        parting=u(-0.4, 0.4),
        beard=str(rng.choice(BEARDS, p=[0.58, 0.08, 0.10, 0.12, 0.12])),
        glasses=str(rng.choice(GLASSES, p=[0.76, 0.12, 0.12])),
        glasses_colour=tuple(rng.integers(20, 200, 3).astype(float).tolist()),  # type: ignore[arg-type]
        freckles=bool(rng.random() < 0.15),
        mole=(u(-0.45, 0.45), u(0.2, 0.45)) if rng.random() < 0.2 else None,
        ear=u(0.10, 0.2),
        blush=u(0, 0.5),
    )


def trait_vector(who: Person) -> np.ndarray:
    """All traits as numbers of about unit size, (V,) float32; choices are one-hot."""
    numbers: list[float] = []
    for key, value in asdict(who).items():
        if key in _CHOICES:
            numbers += [float(value == each) for each in _CHOICES[key]]
        elif key == "mole":
            numbers += [1.0, *value] if value else [0.0, 0.0, 0.0]
        elif isinstance(value, tuple):
            numbers += [v / 127.5 - 1 for v in value]
        elif not isinstance(value, str):
            low, high = _RANGES.get(key, (0.0, 1.0))
            numbers.append((float(value) - low) / (high - low) * 2 - 1)
    return np.array(numbers, np.float32)


_CHOICES = {"hair_style": HAIR_STYLES, "beard": BEARDS, "glasses": GLASSES}
_RANGES = {
    "tone": (0, 5), "width": (0.66, 0.92), "jaw": (0.46, 0.9), "chin_width": (0.16, 0.57), "chin": (0.94, 1.14),
    "eye_size": (0.17, 0.28), "eye_round": (0.55, 0.98), "eye_apart": (0.26, 0.48), "eye_height": (-0.12, 0.04),
    "eye_tilt": (-14, 14), "brow_thick": (0.035, 0.13), "brow_angle": (-0.09, 0.09), "brow_height": (0.24, 0.36),
    "nose_length": (0.22, 0.44), "nose_width": (0.09, 0.24), "mouth_width": (0.22, 0.42),
    "mouth_height": (0.50, 0.60), "lip": (0.03, 0.11), "hair_line": (-0.72, -0.48), "parting": (-0.4, 0.4),
    "ear": (0.10, 0.2), "blush": (0, 0.5),
}  # fmt: skip


def _size_words(value: float, low: float, high: float, small: str, large: str, noun: str) -> list[tuple[str, str]]:
    if value < low:
        return [("with", f"{small} {noun}")]
    return [("with", f"{large} {noun}")] if value > high else []


def trait_words(who: Person) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The striking traits and the finer ones, each as ("is", adjective) or ("with", noun phrase)."""
    striking = [("is", TONE_WORDS[min(int(who.tone), 4)])]
    if who.hair_style == "bald":
        striking.append(("is", "bald"))
    else:
        striking.append(("with", f"{who.hair_word} {who.hair_style} hair"))
    if who.beard != "none":
        striking.append(("with", who.beard if who.beard == "stubble" else f"a {who.beard}"))
    if who.glasses != "none":
        striking.append(("with", who.glasses))
    if who.freckles:
        striking.append(("with", "freckles"))
    if who.mole:
        striking.append(("with", "a mole"))
    fine = [("with", f"{who.iris_word} eyes")]
    if who.width < 0.74:
        fine.append(("is", "thin"))
    elif who.width > 0.84:
        fine.append(("is", "wide"))
    fine += _size_words(who.eye_size, 0.20, 0.25, "small", "big", "eyes")
    fine += _size_words(who.eye_round, 0.68, 0.86, "narrow", "round", "eyes")
    fine += _size_words(who.eye_tilt, -6, 6, "sloping", "slanted", "eyes")
    fine += _size_words(who.brow_thick, 0.06, 0.10, "thin", "thick", "brows")
    fine += _size_words(who.lip, 0.05, 0.085, "thin", "full", "lips")
    fine += _size_words(who.mouth_width, 0.28, 0.36, "small", "wide", "mouth")
    fine += _size_words(who.nose_length, 0.28, 0.37, "short", "long", "nose")
    fine += _size_words(who.nose_width, 0.13, 0.19, "slim", "broad", "nose")
    fine += _size_words(who.chin, 1.0, 1.08, "short", "long", "chin")
    fine += _size_words(who.jaw / who.width, 0.78, 0.89, "narrow", "square", "jaw")
    fine += _size_words(who.ear, 0.13, 0.17, "small", "big", "ears")
    return striking, fine
