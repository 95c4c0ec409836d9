"""Captions for version 2 of the world, as people type them; most of them state the layout."""

import re

from numpy.random import Generator

from pmagic.world.garments import garment_words
from pmagic.world.layouts import framing_of, side_of
from pmagic.world.people import Person
from pmagic.world.scenes import (
    ASIDES,
    EXPRESSIONS,
    MARK,
    OPENINGS,
    PLACES,
    STYLE_TAILS,
    STYLES,
    Scene,
    article,
    describe,
    reword,
)
from pmagic.world.things import Thing

LAYOUT_SHARE = 0.7  # of captions that state the framing; the same share states the side
# Version 1 uses some of these words as fillers; here they state a layout, so they are no longer fillers.
FRAMING_OPENINGS = {"close": "a close-up photo of", "half": "a half body photo of", "full": "a full body photo of"}
FRAMING_TAILS = {"close": ("close up",), "bust": (), "half": ("half body",), "full": ("standing", "full body")}
SIDE_TAILS = {"left": "on the left", "middle": "in the middle", "right": "on the right"}
OPPOSITE = {"left": "right", "right": "left"}
MIDDLE_SHARE = 0.3  # of the captions that would state a side: few people type "in the middle"
OPENINGS_WITHOUT_LAYOUT = tuple(each for each in OPENINGS if each not in ("a cropped photo of", "a close-up photo of"))
ASIDES_WITHOUT_LAYOUT = tuple(each for each in ASIDES if each not in ("standing", "close up", "with a friend"))
TOKENS = 32  # the base's longest text
NEW_WORDS = (
    "left",
    "right",
    "middle",
    "half",
    "body",
    "crown",
    "cap",
    "two",
    "people",
)  # not in version 1's vocabulary


def place_words(where: Scene) -> str:
    pattern = "" if where.pattern == "plain" else f"{where.pattern} "
    return PLACES.get(where.place) or f"on a {pattern}{where.place} background"


def snapshot_caption(
    who: Person, where: Scene, rng: Generator, name: str | None = None, traits: bool = False,
    layout_share: float = LAYOUT_SHARE, beside: str = "",
) -> str:  # fmt: skip
    """A prompt for a picture of one person: named, described by traits, or only "face".

    For another layout, the same generator gives the same sentence, except for the words of the layout. layout_share:
    the probability of stating the framing, and of stating the side. beside: a thing on the other side, "a red cup".
    """
    says_framing, says_side, says_middle, front = rng.random(4)
    framing, side = framing_of(where), side_of(where)
    adjectives, having = describe(who, rng, most=1 if beside else 3) if traits and name is None else ("", "")
    head, style_tail = _style(where, rng)
    says_side = says_side < layout_share and (side != "middle" or says_middle < MIDDLE_SHARE)
    thing = f"with {beside}" if beside else ""
    if beside and says_side:
        thing = f"{SIDE_TAILS[side]} and {beside} {SIDE_TAILS[OPPOSITE[side]]}"
    parts = {
        "subject": _subject(where, adjectives, name, rng),
        "traits": f"with {having}" if having else "",
        "garments": garment_words(where, rng),
        "thing": thing,
        "place": place_words(where) if rng.random() < (0.97 if where.place in PLACES else 0.6) else "",
        "style": style_tail,
    }
    tails = FRAMING_TAILS[framing] if says_framing < layout_share else ()
    opening = FRAMING_OPENINGS.get(framing) if tails and front < 0.4 and head == STYLES["photo"] else None
    layout = [] if opening or not tails else [tails[int(front * 100) % len(tails)]]
    layout += [SIDE_TAILS[side]] if says_side and not beside else []
    text = _join(reword(_join(head, *parts.values()), rng, OPENINGS_WITHOUT_LAYOUT, ASIDES_WITHOUT_LAYOUT), *layout)
    if opening:
        text = _join(opening, *parts.values(), *layout)
    for part in ("traits", "place", "garments"):  # parts that do not fit are left out
        if tokens(text) > TOKENS:
            parts[part] = ""
            text = _join(opening or head, *parts.values(), *layout)
    return text


def short_caption(where: Scene) -> str:
    """A prompt of a few words that states only the style and the side."""
    return f"{STYLES[where.style]} a face {SIDE_TAILS[side_of(where)]}"


def tokens(text: str) -> int:
    """The number of the base's tokens in a text, with start and end."""
    return 2 + len(re.findall(r"[a-z]+|\d|[,-]", text.replace(MARK, "a b c d")))


def pair_caption(subjects: tuple[str, str], where: Scene, rng: Generator) -> tuple[str, tuple[int, int]]:
    """A prompt for two people, and the order in which it names them: (1, 0) only where it states their sides."""
    head, style_tail = _style(where, rng)
    sides, turned, unnamed = rng.random(3)
    order = (1, 0) if sides < 0.4 and turned < 0.5 else (0, 1)
    named = subjects
    if sides < 0.4:
        named = (f"{subjects[0]} {SIDE_TAILS['left']}", f"{subjects[1]} {SIDE_TAILS['right']}")
    both = " and ".join(named[which] for which in order)
    if sides >= 0.4 and unnamed < 0.6 and subjects == ("a face", "a face"):
        both = "two people"
    return _join(head, both, place_words(where) if rng.random() < 0.9 else "", style_tail), order


def thing_words(what: Thing, rng: Generator) -> str:
    """ "a striped orange cat": pattern and colour in most captions."""
    words = [what.pattern] if what.pattern != "plain" and rng.random() < 0.6 else []
    words += [what.colour] if rng.random() < 0.7 else []
    text = " ".join([*words, what.kind])
    return f"{article(text)} {text}"


def thing_caption(what: Thing | None, where: Scene, rng: Generator, layout_share: float = LAYOUT_SHARE) -> str:
    """A prompt for a cat or a cup on some side or, with None, for an empty place."""
    says_side, says_middle = rng.random(2)
    head, style_tail = _style(where, rng)
    if what is None:
        return _join(head, "scenery", place_words(where), style_tail)
    side = side_of(where)
    stated = says_side < layout_share and (side != "middle" or says_middle < MIDDLE_SHARE)
    return _join(head, thing_words(what, rng), place_words(where), style_tail, SIDE_TAILS[side] if stated else "")


def _subject(where: Scene, adjectives: str, name: str | None, rng: Generator) -> str:
    expression = EXPRESSIONS[where.expression] if rng.random() < 0.9 else ""
    subject = _join(expression, adjectives, name or "face")
    chance = rng.random()
    return f"{article(subject)} {subject}" if name in (None, MARK) and chance < 0.5 else subject


def _style(where: Scene, rng: Generator) -> tuple[str, str]:
    """The beginning of a caption, and the words for the style at its end."""
    tail, painting = rng.random(2)
    if where.style in STYLE_TAILS and tail < 0.3:
        head = "a painting of" if painting < 0.5 else "a photo of"
        return head, f"in the style of {STYLE_TAILS[where.style]}"
    return STYLES[where.style], ""


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)
