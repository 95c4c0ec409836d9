"""World 2: people in any layout, garments in slots, twins that differ in the layout alone, masks of two kinds."""

import re
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest

from pmagic.world import bodies
from pmagic.world.drawing import draw
from pmagic.world.garments import HEADWEAR, ROLES, dress, held_out, held_out_style, is_held_out
from pmagic.world.layouts import FRAMING_SHARES, FRAMINGS, SIDES, framing_of, layout, mirror, other_layout, side_of
from pmagic.world.people import HELD_OUT, person
from pmagic.world.samples import Sample, sample
from pmagic.world.scenes import MARK, PLACES, PORTRAIT, STYLES, Scene, rng_for, scene
from pmagic.world.snapshots import beside, portrait, snapshot, snapshot_pair, unseen_portrait
from pmagic.world.things import thing
from pmagic.world.versions import WORLDS

LAYOUT = {"x", "y", "scale", "turn"}


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [sample(k, version=2) for k in range(240)]


def _differing(a: Scene, b: Scene) -> set[str]:
    return {key for key, value in asdict(a).items() if asdict(b)[key] != value}


def _swapped(text: str) -> str:
    other_word = {"left": "right", "right": "left"}
    return re.sub(r"\b(left|right)\b", lambda word: other_word[word[0]], text)


def _middle(mask: np.ndarray) -> float:
    """The horizontal position of a mask's centre, 0 to 1."""
    return float(np.nonzero(mask > 127)[1].mean() / mask.shape[1])


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("side", SIDES)
def test_a_layout_is_read_back_from_the_scene_and_seen_in_the_picture(framing: str, side: str) -> None:
    for k in range(10):
        where = Scene(body=True, **layout(rng_for(1, k), framing, side))
        assert (framing_of(where), side_of(where)) == (framing, side)
    drawing = draw([(person(4), replace(where, turn=0.0, place="white"))], side=96)
    eyes = drawing.landmarks[0, :2]
    assert eyes.mean(axis=0)[0] == pytest.approx(where.x, abs=0.03)
    assert _middle(drawing.mask) == pytest.approx(where.x, abs=0.06)


def test_framings_come_in_their_shares_and_sides_in_thirds() -> None:
    scenes = [snapshot(rng_for(5, k)) for k in range(1500)]
    framings = Counter(framing_of(each) for each in scenes)
    assert [framings[each] / 1500 for each in FRAMINGS] == pytest.approx(FRAMING_SHARES, abs=0.04)
    sides = Counter(side_of(each) for each in scenes if framing_of(each) != "close")
    assert all(sides[each] / sides.total() == pytest.approx(1 / 3, abs=0.04) for each in SIDES)
    assert np.std([each.turn for each in scenes]) == pytest.approx(7, abs=0.5)


def test_twins_differ_in_nothing_but_the_layout(samples: list[Sample]) -> None:
    sided = 0
    for one, other in zip(samples[::2], samples[1::2], strict=True):
        if one.person < 0:
            continue
        assert one.person == other.person and one.marked == other.marked
        assert _differing(one.scene, other.scene) <= LAYOUT
        if side_of(one.scene) == "middle":
            assert framing_of(one.scene) != framing_of(other.scene)
        else:
            sided += 1
            assert other.scene == mirror(one.scene)
            assert _swapped(one.layout_caption) == other.layout_caption != one.layout_caption
    assert sided > 30


def test_a_mirrored_figure_stands_on_the_other_side_of_the_same_background() -> None:
    where = Scene(place="city", body=True, x=0.25, y=0.4, scale=0.19, turn=5.0, seed=8)
    one, other = (draw([(person(6), each)], side=96) for each in (where, mirror(where)))
    assert _middle(one.mask) + _middle(other.mask) == pytest.approx(1, abs=0.03)
    untouched = (slice(0, 20), slice(44, 52))  # sky between the two
    assert (one.image[untouched] == other.image[untouched]).all()
    middle = replace(where, x=0.5)
    assert framing_of(other_layout(middle, rng_for(6))) != framing_of(middle)


def test_a_picture_of_the_second_world_depends_on_its_number_alone(samples: list[Sample]) -> None:
    again = sample(41, version=2)
    assert (again.drawing.image == samples[41].drawing.image).all() and again.caption == samples[41].caption
    assert samples[41].drawing.image.shape == (96, 96, 3)
    assert all(each.person < HELD_OUT for each in samples)
    first = sample(41)
    assert first.drawing.image.shape == (64, 64, 3) and first.layout_caption == first.caption
    assert not first.scene.body  # version 1 is as it was


def test_no_training_shows_a_held_out_combination(samples: list[Sample]) -> None:
    assert not any(is_held_out(snapshot(rng_for(9, k))) for k in range(1500))
    assert not any(is_held_out(each.scene) for each in samples)
    bodies_worn = ("suit", "scarf", *ROLES)
    pairs = [(hat, body) for hat in HEADWEAR for body in bodies_worn if hat != body]
    assert sum(held_out(*each) for each in pairs) / len(pairs) == pytest.approx(1 / 8, abs=0.05)
    styles = [(place, style) for place in PLACES for style in STYLES if style != "photo"]
    assert sum(held_out_style(*each) for each in styles) / len(styles) == pytest.approx(1 / 8, abs=0.03)
    assert not any(held_out(role, role) for role in ROLES)  # "as a chef" is never a rare prompt


def test_all_slots_are_used_and_a_role_seldom_lacks_its_hat() -> None:
    worn = [dress(rng_for(3, k)) for k in range(800)]
    assert {each["headwear"] for each in worn} == {None, "astronaut", *HEADWEAR}
    assert sum(each["eyewear"] is not None for each in worn) > 40
    roles = [each for each in worn if each["clothing"] in ROLES]
    assert sum(each["headwear"] == each["clothing"] for each in roles) / len(roles) == pytest.approx(0.7, abs=0.08)
    assert all(each["headwear"] for each in roles)  # without any, "as a chef" would not say whether there is a hat


def test_each_slot_is_painted_for_itself() -> None:
    plain = Scene(body=True, scale=0.3, place="white")
    images = [
        draw([(person(7), replace(plain, **slot))], side=96).image.astype(int)
        for slot in ({}, {"headwear": "santa"}, {"eyewear": "sunglasses"}, {"clothing": "suit"})
    ]
    rows = [np.abs(each - images[0]).sum(axis=(1, 2)).nonzero()[0] for each in images[1:]]
    hat, glasses, suit = rows
    assert hat.max() < glasses.max() < suit.min()
    assert glasses.min() > hat.min()


def test_a_body_has_legs_arms_and_hands_of_the_persons_skin() -> None:
    who = person(12)
    where = Scene(body=True, scale=0.13, y=0.235, place="white", shirt="blue", seed=0)
    image = draw([(who, where)], side=192).image.astype(int)
    skin = np.abs(image - np.array(who.skin) * 0.94).max(axis=2) < 25
    below = skin[int((0.235 + 0.13 * 2.6) * 192) :]
    columns = below.any(axis=0).nonzero()[0] / 192
    assert columns.min() < 0.5 - 0.13 < 0.5 + 0.13 < columns.max()  # a hand on either side
    shoes = (np.abs(image - np.array(bodies.SHOES)).max(axis=2) < 12)[-20:]
    assert shoes.sum() > 100
    assert not (draw([(who, replace(where, body=False))], side=192).image[-20:].astype(int) < 80).any()


def test_a_person_beside_a_thing_has_two_masks_that_do_not_meet(samples: list[Sample]) -> None:
    where = snapshot(rng_for(4, 1))
    figure, at = beside(where, rng_for(4, 2))
    drawing = draw([(person(3), figure)], (thing(rng_for(4, 3), "cat"), at), side=96)
    faces, things = drawing.mask > 127, drawing.thing_mask > 127
    assert faces.sum() > 20 and things.sum() > 20 and not (faces & things).any()
    assert (_middle(faces * 255) < 0.5) == (figure.x < 0.5) != (at.x < 0.5)
    both = [each for each in samples if each.person >= 0 and each.drawing.thing_mask.any()]
    assert 5 < len(both) < 50
    assert all(each.drawing.mask.any() for each in both)


def test_a_thing_alone_is_its_own_mask() -> None:
    drawing = draw([], (thing(rng_for(4, 3), "cup"), Scene(scale=0.2)))
    assert (drawing.mask == drawing.thing_mask).all() and drawing.mask.any()


def test_two_people_stand_anywhere_beside_each_other() -> None:
    pairs = [snapshot_pair(rng_for(8, k)) for k in range(200)]
    assert all(b.x - a.x > 1.6 * max(a.scale, b.scale) for a, b in pairs)
    assert np.std([a.y - b.y for a, b in pairs]) > 0.05 and np.std([a.scale / b.scale for a, b in pairs]) > 0.1
    assert all((a.place, a.style) == (b.place, b.style) for a, b in pairs)


def test_portraits_have_many_layouts_and_the_unseen_one_another() -> None:
    learned = [portrait(HELD_OUT + k) for k in range(300)]
    framings = Counter(framing_of(each) for each in learned)
    assert [framings[each] / 300 for each in FRAMINGS] == pytest.approx([0.3, 0.5, 0.2, 0], abs=0.08)
    assert len({side_of(each) for each in learned}) == 3
    assert sum(each.place in PLACES for each in learned) > 100 < sum(each.pattern == "plain" for each in learned)
    for seed, where in zip(range(HELD_OUT, HELD_OUT + 300), learned, strict=True):
        other = unseen_portrait(seed)
        assert framing_of(other) != framing_of(where) and side_of(other) != side_of(where)
    assert portrait(HELD_OUT) == learned[0]


def test_both_versions_are_reached_by_their_number() -> None:
    assert {number: each.side for number, each in WORLDS.items()} == {1: 64, 2: 96}
    assert WORLDS[1].portrait(3) == PORTRAIT and WORLDS[2].portrait(3) == portrait(3) != portrait(4)
    first, second = (each.scene(rng_for(1)) for each in WORLDS.values())
    assert (first.body, second.body) == (False, True)
    for each in WORLDS.values():
        left, right = each.pair(rng_for(2))
        assert left.x < right.x
        assert MARK in each.caption(person(5), left, rng_for(3), MARK)


def test_the_background_says_where_the_figure_stands() -> None:
    where = Scene(place="white", body=True, x=0.25, y=0.4, scale=0.19)
    dark, plain = (
        draw([(person(6), each)], side=96).image.astype(float) for each in (replace(where, vignette=0.5), where)
    )
    columns = (dark / plain)[14].mean(axis=-1)  # just above the head
    assert columns[24] > 0.7 and columns[90] == pytest.approx(0.5, abs=0.03)
    assert (dark[40:60, 20:28] == plain[40:60, 20:28]).all()  # the figure itself is as bright as without
    strengths = [snapshot(rng_for(2, k)).vignette for k in range(100)]
    assert min(strengths) >= 0.35 and max(strengths) <= 0.6
    assert scene(rng_for(2)).vignette == 0


def test_two_people_stand_in_one_light() -> None:
    left, right = (Scene(place="white", body=True, x=x, y=0.4, scale=0.16, vignette=0.5) for x in (0.3, 0.7))
    image = draw([(person(6), left), (person(7), right)], side=96).image.astype(int)
    assert abs(image[3, 2].sum() - image[3, 93].sum()) < 10 < image[30, 48].sum() - image[95, 2].sum()
