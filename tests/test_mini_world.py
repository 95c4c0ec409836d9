"""The drawn world: pictures that depend on their number alone, people kept apart, words the tokenizer knows."""

import numpy as np
import pytest

from pmagic.mini import vocabulary
from pmagic.mini.train import WEIGHTS
from pmagic.world.drawing import draw
from pmagic.world.people import HELD_OUT, person, trait_vector
from pmagic.world.samples import PEOPLE, sample
from pmagic.world.scenes import MARK, OUTFITS, PLACES, PORTRAIT, STYLES, Scene, caption, rng_for


def test_a_picture_depends_on_its_number_alone() -> None:
    first, other = sample(41), sample(42)
    again = sample(41)
    assert first.caption == again.caption and (first.drawing.image == again.drawing.image).all()
    assert (first.drawing.image != other.drawing.image).any()


def test_nobody_who_is_held_out_is_in_the_corpus() -> None:
    assert PEOPLE <= HELD_OUT
    assert all(sample(k).person < HELD_OUT for k in range(200))


def test_the_same_person_looks_alike_and_another_does_not() -> None:
    """In the same scene the drawing of a person differs only by the person."""
    here = draw([(person(HELD_OUT + 1), PORTRAIT)]).image.astype(int)
    assert (here == draw([(person(HELD_OUT + 1), PORTRAIT)]).image).all()
    assert np.abs(here - draw([(person(HELD_OUT + 2), PORTRAIT)]).image).mean() > 5


@pytest.mark.parametrize("scale", [0.2, 0.3])
def test_landmarks_lie_on_the_face_and_grow_with_it(scale: float) -> None:
    drawing = draw([(person(3), Scene(scale=scale))])
    points = drawing.landmarks[0]
    on_face = [drawing.mask[int(y * 64), int(x * 64)] for x, y in points]
    assert all(value > 127 for value in on_face)
    assert np.linalg.norm(points[0] - points[1]) == pytest.approx(scale * np.linalg.norm(_eyes_at(1.0)), rel=1e-3)


def _eyes_at(scale: float) -> np.ndarray:
    points = draw([(person(3), Scene(scale=0.3))]).landmarks[0]
    return (points[0] - points[1]) * scale / 0.3


def test_a_caption_tells_the_scene() -> None:
    where = Scene(style="oil", place="snow", outfit="cowboy")
    told = [caption(person(9), where, rng_for(99, k)) for k in range(40)]
    for words in (OUTFITS["cowboy"], PLACES["snow"]):
        assert sum(words in text for text in told) > 30
    assert sum(STYLES["oil"] in text or "in the style of oil painting" in text for text in told) > 30


def test_traits_are_numbers_of_one_length_and_tell_people_apart() -> None:
    traits = np.stack([trait_vector(person(k)) for k in range(300)])
    assert np.abs(traits).max() < 1.2
    assert len(np.unique(traits, axis=0)) == 300
    spread = traits.std(axis=0)
    assert (spread > 0.05).all()  # none of them is the same for everybody


def test_each_mark_of_a_caption_has_its_person() -> None:
    samples = [sample(k) for k in range(300)]
    assert all(s.caption.count(MARK) == len(s.marked) for s in samples)
    marks = [len(s.marked) for s in samples]
    assert marks.count(1) > 100 and marks.count(2) > 1
    assert all(s.marked == (s.person,) for s in samples if s.person >= 0 and s.marked)


def test_every_word_of_the_captions_is_one_token_of_the_shipped_tokenizer() -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "base" / "tokenizer")
    assert tokenizer.model_max_length == vocabulary.LENGTH
    said = {word for k in range(150) for word in sample(k).caption.replace(MARK, "face").replace(",", " ").split()}
    words = {word for word in said if word.isalpha()}  # CLIP cuts "close-up" and "4k" before any vocabulary is asked
    several = [word for word in words if len(tokenizer(word, add_special_tokens=False).input_ids) != 1]
    assert not several
