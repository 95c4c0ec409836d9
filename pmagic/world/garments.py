"""Garments in three slots: on the head, before the eyes, on the body; which of them go together, and their words."""

from typing import TypedDict

from numpy.random import Generator

from pmagic.world.scenes import OUTFITS, PLACES, SHIRTS, STYLES, Scene, article

# Whoever wears a role on the body is called by it; its own hat is then not told apart.
ROLES = ("cowboy", "astronaut", "chef", "wizard", "king", "pirate", "police")
HEADWEAR = {
    "cowboy": "a cowboy hat", "chef": "a chef hat", "wizard": "a wizard hat", "king": "a crown",
    "pirate": "a pirate hat", "police": "a police cap", "santa": "a santa hat", "beanie": "a blue beanie",
    "headphones": "headphones",
}  # fmt: skip
EYEWEAR = {"sunglasses": "sunglasses"}
CLOTHING = {"suit": "a suit", "scarf": "a red scarf"}  # and roles and shirts
_BODIES = (*CLOTHING, *ROLES, *SHIRTS)


def held_out(headwear: str | None, body: str | None) -> bool:
    """One in eight pairs of headwear and what is worn on the body is in no training; nobody loses a role's own hat."""
    if headwear is None or body is None or headwear == body or headwear not in HEADWEAR:
        return False
    return (3 * list(HEADWEAR).index(headwear) + _BODIES.index(body)) % 8 == 5


def held_out_style(place: str, style: str) -> bool:
    """One in eight pairs of a place and a style other than a photo is in no training."""
    if place not in PLACES or style == "photo":
        return False
    return (3 * list(PLACES).index(place) + list(STYLES).index(style)) % 8 == 5


def body_of(where: Scene) -> str:
    """What is worn on the body: a role, a garment, or a shirt by its colour."""
    return where.clothing or where.shirt


def is_held_out(where: Scene) -> bool:
    """Whether a scene shows a combination that no training shows."""
    return held_out(where.headwear, body_of(where)) or held_out_style(where.place, where.style)


class Garments(TypedDict):
    headwear: str | None
    eyewear: str | None
    clothing: str | None
    shirt: str


def dress(rng: Generator) -> Garments:
    """Fields of a Scene at random: headwear, eyewear, clothing and shirt, of combinations that are not held out."""
    shirt = str(rng.choice(list(SHIRTS)))
    kind = rng.random()
    role = str(rng.choice(ROLES)) if kind < 0.32 else None
    clothing = role or (str(rng.choice(list(CLOTHING))) if kind < 0.48 else None)
    if role and rng.random() < 0.7:
        headwear = role
    elif role or rng.random() < 0.4:
        allowed = [each for each in HEADWEAR if not held_out(each, clothing or shirt) and each != role]
        headwear = str(rng.choice(allowed))
    else:
        headwear = None
    eyewear = "sunglasses" if rng.random() < 0.1 and headwear != "astronaut" else None
    return {"headwear": headwear, "eyewear": eyewear, "clothing": clothing, "shirt": shirt}


def garment_words(where: Scene, rng: Generator, share: float = 0.93) -> str:
    """How a caption tells the garments, most of them: "as a chef wearing sunglasses"; "" where none is told."""
    role = where.clothing if where.clothing in ROLES else None
    listed = []
    if where.headwear in HEADWEAR and where.headwear != role:
        listed.append(HEADWEAR[where.headwear])
    if where.eyewear:
        listed.append(EYEWEAR[where.eyewear])
    if where.clothing in CLOTHING:
        listed.append(CLOTHING[where.clothing])
    listed = [each for each in listed if rng.random() < share]
    if not where.clothing and rng.random() < 0.35:
        listed.append(f"{article(where.shirt)} {where.shirt} shirt")
    listed = [listed[i] for i in rng.permutation(len(listed))]
    parts = [OUTFITS[role]] if role else []
    if listed:
        parts.append("wearing " + " and ".join(listed))
    return " ".join(parts)
