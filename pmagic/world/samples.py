"""Training samples of both versions of the world: a picture with its caption and people, drawn from its number alone.

Version 1 is the shipped world: faces near the middle, one outfit each. Version 2 has layouts: its pictures 2k and
2k + 1 are twins, which differ only in the layout, and so do their captions.
"""

from dataclasses import dataclass, replace

from numpy.random import Generator

from pmagic.world import captions, scenes
from pmagic.world.drawing import Drawing, draw
from pmagic.world.layouts import mirror, other_layout
from pmagic.world.people import NAMED, NAMES, person
from pmagic.world.scenes import MARK, Scene, pair_scenes, rng_for, scene
from pmagic.world.snapshots import beside, snapshot, snapshot_pair, thing_alone
from pmagic.world.things import thing, thing_caption
from pmagic.world.versions import WORLDS

PEOPLE = 60_000  # training uses the seeds below this; the first `NAMED` people have names
# Half of the pictures show one of the first FAMILIAR people, a quarter one of those up to KNOWN. When every person was
# seen once, no trait was learned; with faces that return, those of strangers are learned, too (docs/miniature.md).
FAMILIAR, KNOWN = 64, 576
NOBODY = 0.15  # share of pairs without names, in version 2
_KEYS = {1: 1, 2: 102}  # of random numbers, by version
_CAPTIONS = 103


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One picture of the corpus, with its caption and people."""

    drawing: Drawing
    caption: str  # with `MARK` in place of each person in `marked`
    marked: tuple[int, ...]  # seeds, in the caption's order
    person: int  # seed of the one person shown, -1 for pairs and things
    scene: Scene
    layout_caption: str  # the caption with its layout always stated; in version 1 the same caption


def sample(number: int, version: int = 1) -> Sample:
    """Picture `number` of a version of the world."""
    return {1: _plain_sample, 2: _snapshot_sample}[version](number)


def somebody(rng: Generator) -> int:
    """The seed of a person without a name, mostly of one who is shown often."""
    chance = rng.random()
    low, high = (0, FAMILIAR) if chance < 0.5 else (FAMILIAR, KNOWN) if chance < 0.75 else (KNOWN, PEOPLE - NAMED)
    return NAMED + int(rng.integers(low, high))


def _plain_sample(number: int) -> Sample:
    """Nine in ten show one person, the rest pairs, cats, cups and empty places."""
    rng = rng_for(_KEYS[1], number)
    kind = rng.random()
    where = scene(rng)
    if kind < 0.89:
        chance = rng.random()  # marked, named, described by traits, or only "face"
        named = 0.7 <= chance < 0.8
        who = int(rng.integers(0, NAMED)) if named else somebody(rng)
        name = NAMES[who] if named else MARK if chance < 0.7 else None
        text = scenes.caption(person(who), where, rng, name, traits=chance < 0.92)
        return Sample(
            drawing=draw([(person(who), where)]),
            caption=text,
            marked=(who,) if name == MARK else (),
            person=who,
            scene=where,
            layout_caption=text,
        )
    if kind < 0.95:
        both = pair_scenes(rng)
        seeds, subjects = _two_people(rng)
        text = scenes.pair_caption(subjects, both[0], rng)
        drawing = draw([(person(s), each) for s, each in zip(seeds, both, strict=True)])
        marked = tuple(s for s, word in zip(seeds, subjects, strict=True) if word == MARK)
        return Sample(drawing=drawing, caption=text, marked=marked, person=-1, scene=both[0], layout_caption=text)
    what = thing(rng, "cat" if kind < 0.97 else "cup") if kind < 0.985 else None
    text = thing_caption(what, where, rng)
    return Sample(drawing=draw([], (what, where)), caption=text, marked=(), person=-1, scene=where, layout_caption=text)


def _two_people(rng: Generator) -> tuple[list[int], tuple[str, str]]:
    """The seeds of two people and the words for them in a caption, left first."""
    seeds = [int(s) for s in rng.integers(0, NAMED, 2)]
    chances = rng.random(2)
    subjects = [MARK if c < 0.6 else NAMES[s] if c < 0.85 else "a face" for c, s in zip(chances, seeds, strict=True)]
    seeds = [somebody(rng) if c < 0.6 else s for c, s in zip(chances, seeds, strict=True)]
    return seeds, (subjects[0], subjects[1])


def _snapshot_sample(number: int) -> Sample:
    """Four in five show one person, some of them beside a thing; the rest pairs, things alone and empty places."""
    twin, key = number % 2 == 1, number // 2
    rng = rng_for(_KEYS[2], key)
    kind = rng.random()
    where = snapshot(rng)
    if kind < 0.82:
        return _one_person(where, rng, key, twin, with_thing=kind >= 0.74)
    if kind < 0.93:
        return _pair(rng, key, twin)
    what = thing(rng, "cat" if kind < 0.955 else "cup") if kind < 0.98 else None
    where = thing_alone(where, rng)
    if twin:
        where = replace(where, seed=where.seed + 1) if what is None else other_layout(where, rng)
    text, layout_text = (
        captions.thing_caption(what, where, rng_for(_CAPTIONS, key), share) for share in (captions.LAYOUT_SHARE, 1.0)
    )
    return Sample(
        drawing=draw([], (what, where), side=WORLDS[2].side),
        caption=text,
        marked=(),
        person=-1,
        scene=where,
        layout_caption=layout_text,
    )


def _one_person(where: Scene, rng: Generator, key: int, twin: bool, with_thing: bool) -> Sample:
    chance = rng.random()  # marked, named, described by traits, or only "face"
    named = 0.7 <= chance < 0.8
    who = int(rng.integers(0, NAMED)) if named else somebody(rng)
    name = NAMES[who] if named else MARK if chance < 0.7 else None
    what, at, words = None, where, ""
    if with_thing:
        what = thing(rng, "cat" if rng.random() < 0.5 else "cup")
        words = captions.thing_words(what, rng)
        where, at = beside(where, rng)
        if twin:
            where, at = mirror(where), mirror(at)
    elif twin:
        where = other_layout(where, rng)
    text, layout_text = (
        captions.snapshot_caption(person(who), where, rng_for(_CAPTIONS, key), name, chance < 0.92, share, words)
        for share in (captions.LAYOUT_SHARE, 1.0)
    )
    drawing = draw([(person(who), where)], (what, at) if what else None, side=WORLDS[2].side)
    return Sample(
        drawing=drawing,
        caption=text,
        marked=(who,) if name == MARK else (),
        person=who,
        scene=where,
        layout_caption=layout_text,
    )


def _pair(rng: Generator, key: int, twin: bool) -> Sample:
    """Two people; in the twin they have changed sides."""
    places = snapshot_pair(rng)
    seeds, subjects = _two_people(rng)
    if rng.random() < NOBODY:
        subjects = ("a face", "a face")
    if twin:
        seeds, subjects = (seeds[1], seeds[0]), (subjects[1], subjects[0])
        places = (mirror(places[1]), mirror(places[0]))
    text, order = captions.pair_caption(subjects, places[0], rng_for(_CAPTIONS, key))
    marked = tuple(seeds[which] for which in order if subjects[which] == MARK)
    drawing = draw([(person(s), each) for s, each in zip(seeds, places, strict=True)], side=WORLDS[2].side)
    return Sample(drawing=drawing, caption=text, marked=marked, person=-1, scene=places[0], layout_caption=text)
