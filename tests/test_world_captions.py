"""Captions of world 2: the layout in most of them, garments slot by slot, in words of one token each."""

import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import CLIPTokenizer

from pmagic.mini import train, vocabulary
from pmagic.mini.base_networks import TOKEN_LENGTH
from pmagic.world import captions, samples
from pmagic.world.captions import NEW_WORDS, pair_caption, short_caption, snapshot_caption, tokens
from pmagic.world.garments import garment_words
from pmagic.world.people import person
from pmagic.world.samples import Sample
from pmagic.world.scenes import MARK, Scene, rng_for

STANDING = Scene(body=True, x=0.25, y=0.235, scale=0.13, place="jungle", clothing="chef", headwear="santa")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    folder = tmp_path_factory.mktemp("words") / "tokenizer"
    shutil.copytree(train.WEIGHTS / "base" / "tokenizer", folder)
    return vocabulary.extend(folder, NEW_WORDS)


@pytest.fixture(scope="module")
def drawn() -> list[Sample]:
    """Samples without their pictures, because only their captions are tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "draw", lambda *args, **named: None)
        return [samples.sample(k, version=2) for k in range(3000)]


def test_old_words_keep_their_ids_and_new_ones_are_one_token_behind_them(tokenizer: CLIPTokenizer) -> None:
    old = CLIPTokenizer.from_pretrained(train.WEIGHTS / "base" / "tokenizer")
    words = [each.removesuffix("</w>") for each in old.get_vocab() if each.endswith("</w>") and each[:-4].isalpha()]
    assert len(words) > 700
    assert all(tokenizer(each).input_ids == old(each).input_ids for each in words if each not in NEW_WORDS)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (old.bos_token_id, old.eos_token_id)
    for word in NEW_WORDS:
        (own,) = tokenizer(word, add_special_tokens=False).input_ids
        assert own >= len(old) and len(old(word, add_special_tokens=False).input_ids) > 1
    loaded = CLIPTokenizer.from_pretrained(tokenizer.name_or_path)
    assert loaded("on the left").input_ids == tokenizer("on the left").input_ids


def test_old_embeddings_stay_and_left_and_right_begin_opposite(tokenizer: CLIPTokenizer) -> None:
    table = torch.nn.functional.normalize(torch.randn(1553, 160, generator=torch.Generator().manual_seed(0)), dim=-1)
    table *= TOKEN_LENGTH
    whole = train.with_new_words(table, tokenizer)
    assert torch.equal(whole[: len(table)], table) and len(whole) == len(tokenizer)
    torch.testing.assert_close(whole.norm(dim=-1), torch.full((len(whole),), TOKEN_LENGTH))
    left, right = (whole[tokenizer(word, add_special_tokens=False).input_ids[0]] for word in ("left", "right"))
    torch.testing.assert_close(left, -right)


def test_every_word_is_one_token_and_every_caption_fits(drawn: list[Sample], tokenizer: CLIPTokenizer) -> None:
    texts = [text for each in drawn for text in (each.caption, each.layout_caption)]
    words = {word for text in texts for word in re.findall("[a-z]+", text.replace(MARK, ""))}
    assert [word for word in words if len(tokenizer.tokenize(word)) != 1] == []
    assert set(NEW_WORDS) <= words
    for text in texts:
        length = len(tokenizer(text.replace(MARK, "face face face face")).input_ids)
        assert length == tokens(text) <= vocabulary.LENGTH == captions.TOKENS, text


def test_each_mark_has_its_person(drawn: list[Sample]) -> None:
    assert all(each.caption.count(MARK) == each.layout_caption.count(MARK) == len(each.marked) for each in drawn)
    assert all(each.marked == (each.person,) for each in drawn if each.person >= 0 and each.marked)


def test_layout_is_said_in_seven_of_ten_captions_or_always() -> None:
    loose = [snapshot_caption(person(3), STANDING, rng_for(1, k)) for k in range(600)]
    always = [snapshot_caption(person(3), STANDING, rng_for(1, k), layout_share=1) for k in range(600)]
    for texts, share in ((loose, 0.7), (always, 1.0)):
        assert sum("on the left" in text for text in texts) / 600 == pytest.approx(share, abs=0.06)
        assert sum(bool(re.search("full body|standing", text)) for text in texts) / 600 == pytest.approx(
            share, abs=0.06
        )
    assert not any(re.search(r"\bright|close", text) for text in always)
    heads = Counter(text.startswith("a full body photo of") for text in always)
    assert 0.2 < heads[True] / 600 < 0.6  # before and behind


def test_a_short_caption_says_little_but_the_side() -> None:
    assert short_caption(STANDING) == "a photo of a face on the left"
    assert short_caption(replace(STANDING, x=0.5, style="oil")) == "an oil painting of a face in the middle"


def test_what_means_a_layout_is_no_filler() -> None:
    bust = Scene(body=True, scale=0.28, x=0.5)
    texts = [snapshot_caption(person(3), bust, rng_for(1, k)) for k in range(2000)]
    assert not any(re.search(r"close|cropped|standing|body|left|\bright|friend", text) for text in texts)


def test_garments_are_said_slot_by_slot() -> None:
    said = Counter(garment_words(STANDING, rng_for(1, k)) for k in range(200))
    assert said["as a chef wearing a santa hat"] > 150
    all_three = Scene(headwear="king", eyewear="sunglasses", clothing="scarf")
    words = [garment_words(all_three, rng_for(1, k), share=1) for k in range(20)]
    assert {frozenset(text.removeprefix("wearing ").split(" and ")) for text in words} == {
        frozenset({"a crown", "sunglasses", "a red scarf"})
    }
    assert len(set(words)) > 3  # in any order
    assert garment_words(Scene(clothing="chef", headwear="chef"), rng_for(1)) == "as a chef"


def test_two_people_are_named_from_the_left_or_with_their_sides() -> None:
    for k in range(200):
        text, order = pair_caption(("bako", "dime"), STANDING, rng_for(2, k))
        names = re.findall("bako|dime", text)
        assert names == [("bako", "dime")[which] for which in order]
        if "left" in text:
            assert "bako on the left" in text and "dime on the right" in text
        else:
            assert order == (0, 1)


def test_a_thing_beside_a_person_stands_on_the_other_side() -> None:
    texts = [snapshot_caption(person(3), STANDING, rng_for(3, k), beside="a red cup") for k in range(100)]
    assert all("a red cup" in text for text in texts)
    sided = [text for text in texts if "left" in text]
    assert 50 < len(sided) < 90 and all("on the left and a red cup on the right" in text for text in sided)
    assert all("with a red cup" in text for text in texts if text not in sided)


def test_the_first_worlds_words_are_all_old(tokenizer: CLIPTokenizer) -> None:
    assert not any(word in samples.sample(k).caption.split() for k in range(60) for word in NEW_WORDS)


def test_extending_twice_adds_nothing(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    shutil.copytree(tokenizer.name_or_path, tmp_path / "again")
    assert len(vocabulary.extend(tmp_path / "again", NEW_WORDS)) == len(tokenizer)
