"""Garments in three slots (head, eyes, body): which of them are combined, and the words for them."""

from typing import TypedDict

from numpy.random import Generator

from pmagic.world.scenes import OUTFITS, PLACES, SHIRTS, STYLES, Scene, article

# A person in a role's clothes is called by the role, and a caption then leaves out the role's own hat.
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
    """Whether no training has this headwear with this clothing: one pair in eight, never a role with its own hat."""
    if headwear is None or body is None or headwear == body or headwear not in HEADWEAR:
        return False
    return (3 * list(HEADWEAR).index(headwear) + _BODIES.index(body)) % 8 == 5


def held_out_style(place: str, style: str) -> bool:
    """Whether a place and a style are left out of training together: one pair in eight, never the style "photo"."""
    if place not in PLACES or style == "photo":
        return False
    return (3 * list(PLACES).index(place) + list(STYLES).index(style)) % 8 == 5


def body_of(where: Scene) -> str:
    """The clothing on the body: a role, a garment, or the colour of a shirt."""
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
    """The words for most of the garments, such as "as a chef wearing sunglasses"; "" without any."""
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
