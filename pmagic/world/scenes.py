"""Scenes: a person's outfit, place, expression and style, and the captions that people would type for them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from pmagic.world.people import Person, trait_words

STYLES = {
    "photo": "a photo of", "oil": "an oil painting of", "pencil": "a pencil sketch of",
    "gray": "a black and white photo of", "comic": "a comic drawing of", "neon": "a neon painting of",
}  # fmt: skip
STYLE_SHARES = (0.66, 0.08, 0.07, 0.07, 0.07, 0.05)
STYLE_TAILS = {"oil": "oil painting", "pencil": "pencil sketch", "comic": "comic", "neon": "neon"}
PLACES = {
    "beach": "on a beach", "snow": "in the snow", "jungle": "in a jungle", "city": "in a city",
    "night": "under a night sky", "library": "in a library", "desert": "in a desert", "space": "in space",
}  # fmt: skip
COLOURS = {
    "red": (205, 70, 65), "blue": (80, 130, 205), "green": (95, 170, 100), "gray": (150, 150, 150),
    "white": (240, 240, 238), "yellow": (238, 205, 95), "pink": (240, 170, 185),
}  # fmt: skip
OUTFITS = {
    "cowboy": "as a cowboy", "astronaut": "as an astronaut", "chef": "as a chef", "wizard": "as a wizard",
    "king": "as a king", "pirate": "as a pirate", "police": "as a police officer",
    "santa": "wearing a santa hat", "sunglasses": "wearing sunglasses", "headphones": "wearing headphones",
    "scarf": "wearing a red scarf", "suit": "wearing a suit", "beanie": "wearing a blue beanie",
}  # fmt: skip
SHIRTS = {
    "red": (200, 50, 50), "blue": (50, 90, 190), "green": (60, 150, 80), "yellow": (235, 200, 70),
    "white": (238, 238, 238), "black": (40, 40, 45), "purple": (130, 70, 160), "orange": (235, 130, 50),
}  # fmt: skip
EXPRESSIONS = {
    "neutral": "", "smile": "smiling", "surprise": "surprised", "sad": "sad", "angry": "angry", "sleep": "sleeping",
}  # fmt: skip
MAX_TRAITS = 6  # in one caption, so that the words for scene and style after them still fit into the base's text
MARK = "<name>"  # in a caption, a person who is named by embeddings instead of words
EXPRESSION_SHARES = (0.5, 0.18, 0.08, 0.08, 0.08, 0.08)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything in a picture that is not the person. Lengths are shares of the picture's side, angles degrees."""

    style: str = "photo"
    place: str = "gray"  # a key of PLACES or of COLOURS
    outfit: str | None = None
    shirt: str = "blue"
    expression: str = "neutral"
    x: float = 0.5
    y: float = 0.545
    scale: float = 0.31
    turn: float = 0.0
    yaw: float = 0.0
    light: float = 0.3
    seed: int = 1
    # Only in version 2 of the world: a garment for each slot, in place of the outfit's; a whole body below the
    # shoulders; a pattern on a plain colour; how much darker the background is away from the figure, 0 to 1.
    headwear: str | None = None
    eyewear: str | None = None
    clothing: str | None = None
    body: bool = False
    pattern: str = "plain"
    vignette: float = 0.0


PORTRAIT = Scene()  # the plain front view that a portrait is learned from


def scene(rng: Generator) -> Scene:
    """One scene at random."""
    return Scene(
        style=str(rng.choice(list(STYLES), p=STYLE_SHARES)),
        place=str(rng.choice(list(PLACES) if rng.random() < 0.55 else list(COLOURS))),
        outfit=str(rng.choice(list(OUTFITS))) if rng.random() < 0.6 else None,
        shirt=str(rng.choice(list(SHIRTS))),
        expression=str(rng.choice(list(EXPRESSIONS), p=EXPRESSION_SHARES)),
        x=float(0.5 + rng.normal(0, 0.03)),
        y=float(0.545 + rng.normal(0, 0.02)),
        scale=float(rng.uniform(0.265, 0.335)),
        turn=float(rng.normal(0, 4)),
        yaw=float(rng.normal(0, 0.06)),
        light=float(rng.uniform(-1, 1)),
        seed=int(rng.integers(1 << 30)),
    )


def article(text: str) -> str:
    return "an" if text[0] in "aeiou" else "a"


def place_words(where: Scene) -> str:
    return PLACES.get(where.place) or f"on a {where.place} background"


def describe(who: Person, rng: Generator, most: int = MAX_TRAITS) -> tuple[str, str]:
    """Adjectives and a "with" phrase for some of the traits, at most `most`; in one of five cases for nearly all."""
    striking, fine = trait_words(who)
    share = 1.0 if rng.random() < 0.2 else rng.random()
    words = [p for p in striking if rng.random() < 0.25 + 0.75 * share]
    words += [p for p in fine if rng.random() < share * 0.8]
    words = words[:most]
    words = [words[i] for i in rng.permutation(len(words))]
    return " ".join(w for kind, w in words if kind == "is"), " and ".join(w for kind, w in words if kind == "with")


def caption(who: Person, where: Scene, rng: Generator, name: str | None = None, traits: bool = False) -> str:
    """A prompt for the picture: named, described by traits, or only "face". It states most of the scene."""
    adjectives, having = describe(who, rng) if traits and name is None else ("", "")
    words = [EXPRESSIONS[where.expression]] if where.expression != "neutral" and rng.random() < 0.9 else []
    words += [adjectives] if adjectives else []
    subject = " ".join([*words, name or "face"])
    style_tail = ""
    head = STYLES[where.style]
    if where.style in STYLE_TAILS and rng.random() < 0.3:
        head, style_tail = (
            str(rng.choice(["a painting of", "a photo of"])),
            f"in the style of {STYLE_TAILS[where.style]}",
        )
    if name in (None, MARK) and rng.random() < 0.5:
        subject = f"{article(subject)} {subject}"
    parts = [head, subject]
    if having:
        parts.append("with " + having)
    if where.outfit and rng.random() < 0.97:
        parts.append(OUTFITS[where.outfit])
    elif not where.outfit and rng.random() < 0.3:
        parts.append(f"wearing a {where.shirt} shirt")
    if rng.random() < (0.97 if where.place in PLACES else 0.6):
        parts.append(place_words(where))
    return reword(" ".join([*parts, style_tail]).strip(), rng)


# Other words that people type around a subject. They change nothing in a drawn picture, but a base should know them.
OPENINGS = (
    "photo of", "the photo of", "a rendering of", "a rendition of", "a cropped photo of", "a close-up photo of",
    "a bright photo of", "a dark photo of", "a good photo of", "a low resolution photo of", "a blurry photo of",
    "a picture of", "a portrait of", "a selfie of", "a vintage photograph of", "an image of",
)  # fmt: skip
DETERMINERS = ("a", "the", "my", "one", "this")
FILLERS = ("clean", "dirty", "cool", "nice", "small", "weird", "large", "young", "old", "strange", "happy", "beautiful")
ASIDES = (
    "high quality", "detailed", "best quality", "looking at the camera", "masterpiece", "sharp focus", "4k",
    "standing", "close up", "with a friend", "in the morning", "reading a book", "at home", "on the street",
)  # fmt: skip
NEGATIVES = (
    "monochrome", "lowres", "bad anatomy", "worst quality", "low quality", "blurry", "ugly", "deformed", "watermark",
    "text", "cropped", "jpeg artifacts", "extra fingers", "out of frame",
)  # fmt: skip


def reword(text: str, rng: Generator, openings: Sequence[str] = OPENINGS, asides: Sequence[str] = ASIDES) -> str:
    """Sometimes another opening, determiner, filler word or aside, as in the usual prompt templates."""
    if text.startswith("a photo of ") and rng.random() < 0.3:
        text = str(rng.choice(openings)) + text.removeprefix("a photo of")
    if rng.random() < 0.12:
        text = text.replace(" of a ", f" of {rng.choice(DETERMINERS)} ", 1)
    if rng.random() < 0.08 and " face" in text:
        text = text.replace(" face", f" {rng.choice(FILLERS)} face", 1)
    if rng.random() < 0.12 and " face" in text:
        text = text.replace(" face", f" {rng.choice(['person', 'portrait', 'man', 'woman', 'character'])}", 1)
    if rng.random() < 0.06:
        text = f"{text}, {rng.choice(asides)}"
    return text


def empty_prompt(rng: Generator) -> str:
    """An empty prompt: no words, or the usual negative words."""
    if rng.random() < 0.6:
        return ""
    return ", ".join(NEGATIVES[i] for i in rng.permutation(len(NEGATIVES))[: int(rng.integers(1, 7))])


def pair_scenes(rng: Generator) -> tuple[Scene, Scene]:
    """The scenes of two people side by side in one place, drawn smaller."""
    base = scene(rng)
    common = {"style": base.style, "place": base.place, "seed": base.seed, "light": base.light}
    left, right = (scene(rng) for _ in range(2))
    y = float(0.56 + rng.normal(0, 0.015))
    scale = float(rng.uniform(0.20, 0.235))
    return tuple(  # type: ignore[return-value]
        Scene(
            **common,
            x=x,
            y=y,
            scale=scale,
            yaw=s.yaw,
            turn=s.turn,
            shirt=s.shirt,
            expression=s.expression,
            outfit=s.outfit if rng.random() < 0.3 else None,
        )
        for s, x in ((left, 0.27), (right, 0.73))
    )


def pair_caption(subjects: tuple[str, str], where: Scene, rng: Generator) -> str:
    text = f"{STYLES[where.style]} {subjects[0]} and {subjects[1]}"
    return f"{text} {place_words(where)}" if rng.random() < 0.9 else text


def rng_for(*key: int) -> Generator:
    """A generator that depends on the key alone, so that any picture of a corpus can be drawn by itself."""
    return np.random.default_rng([4711, *key])
