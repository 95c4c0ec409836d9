"""Prompts: where the name stands, what is cut, and which words can be a super-category."""

from pathlib import Path
from typing import Any

import pytest
import tiny

from pmagic.bases import model_spec
from pmagic.engine import prompts
from pmagic.engine.recipes import LearnSettings
from pmagic.errors import Incompatible, UsageError

pytest_plugins = ["tiny"]


@pytest.fixture(scope="module")
def tokenizer(tiny_folders: dict[str, Path]) -> Any:
    return prompts.load_tokenizer(tiny_folders["sd1"])


def test_placeholders_stand_where_the_name_stands(tokenizer: Any) -> None:
    placed = prompts.check_prompt(tokenizer, "a photo of {} as a cowboy", 4)
    assert len(placed.ids) == len(placed.placeholder_index) == tiny.LENGTH
    assert placed.placeholder_index[:9] == (-1, -1, -1, -1, 0, 1, 2, 3, -1)
    assert placed.length == 3 + 4 + 3
    assert placed.cut == ""


def test_the_rest_is_tokenised_as_the_tokenizer_does(tokenizer: Any) -> None:
    placed = prompts.check_prompt(tokenizer, "a photo of {}, in the snow", 1)
    whole = tokenizer("a photo of face, in the snow", padding="max_length", max_length=tiny.LENGTH).input_ids
    kept = [token for token, slot in zip(placed.ids, placed.placeholder_index, strict=True) if slot < 0]
    name = tokenizer("face", add_special_tokens=False).input_ids[0]
    assert kept == [token for token in whole if token != name]


def test_what_does_not_fit_is_told(tokenizer: Any) -> None:
    placed = prompts.check_prompt(tokenizer, "{} " + "snow " * 70 + "with a dog", 4)
    assert placed.length == tiny.LENGTH - 2
    assert placed.cut == "a dog"
    assert placed.ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("words", [74, 72, 80])
def test_a_name_that_is_cut_off_is_refused(tokenizer: Any, words: int) -> None:
    with pytest.raises(UsageError, match=r"the name stands beyond the 75 tokens .* which end after 'snow snow"):
        prompts.check_prompt(tokenizer, "snow " * words + "{}", 4)


def test_a_name_at_the_very_end_fits(tokenizer: Any) -> None:
    assert prompts.check_prompt(tokenizer, "snow " * 71 + "{}", 4).length == 75


def test_a_prompt_without_a_name_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UsageError, match=r"has no \{\}"):
        prompts.check_prompt(tokenizer, "a photo of alice", 4)
    with pytest.raises(UsageError, match=r"has no \{\}"):
        prompts.substitute_names("a photo of alice", {"": "face"})


def test_a_word_of_one_token_passes_and_others_get_proposals(tokenizer: Any) -> None:
    assert prompts.check_word(tokenizer, "face") == tokenizer("face").input_ids[1]
    for word in ("facehat", "oil painting", "faces"):
        with pytest.raises(UsageError, match="must be a single one") as raised:
            prompts.check_word(tokenizer, word)
        proposals = raised.value.next_step.removeprefix("use one of: ").split(", ")
        assert all(len(tokenizer(each, add_special_tokens=False).input_ids) == 1 for each in proposals)
    assert proposals[0] == "face"
    with pytest.raises(UsageError):
        prompts.check_word(tokenizer, "<|endoftext|>")
    with pytest.raises(UsageError):
        prompts.check_word(tokenizer, "")


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Incompatible, match="holds no tokenizer"):
        prompts.load_tokenizer(tmp_path)


def test_every_prompt_of_learning_has_a_name_and_another_word() -> None:
    for text in (
        *LearnSettings(recipe="reference").open_prompts,
        *(each for kind in prompts.TEMPLATES.values() for each in kind),
    ):
        assert text.count("{}") == 1 and len(text.split()) > 1
    assert len(set(prompts.OPEN_PROMPTS)) == 20


def test_a_text_of_prompts_is_read_in_one_way() -> None:
    text = "﻿# a comment\r\n as a cowboy \r\rin \u2028 snow\n\n#another\n{} # a hash later is text"
    assert prompts.read_prompts(text.encode(), "p") == [
        (2, "as a cowboy"),
        (4, "in \u2028 snow"),
        (7, "{} # a hash later is text"),
    ]
    for control in "\x0b\x0c\x1c\x85":  # at which `splitlines` would split
        with pytest.raises(UsageError, match=r"p, line 2: holds the control character"):
            prompts.read_prompts(f"fine\nin{control}two".encode(), "p")
    for empty in ("", "\n \n", "# nothing else"):
        with pytest.raises(UsageError, match="p holds no prompt"):
            prompts.read_prompts(empty.encode(), "p")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("(as a cowboy:1.3) in snow", ["(as a cowboy:1.3)"]),
        ("a ((red)) hat, [blue], [a:b:0.5], [a|b]", ["((red))", "[blue]", "[a:b:0.5]", "[a|b]"]),
        ("a hat BREAK snow AND rain", ["BREAK", "AND"]),
        ("<lora:detail:0.8> a hat, embedding:bad-hands", ["<lora:detail:0.8>", "embedding:bad-hands"]),
        ("a hat++ in (deep snow)--", ["t++", ")--"]),
        ("a __colour__ hat", ["__colour__"]),
        ("(a:1.1) and (a:1.1)", ["(a:1.1)"]),
        ("a photo (black and white) at 10:30, break and bread - a C-3PO; don't {alice}!", []),
    ],
)
def test_what_other_tools_obey_is_noticed(text: str, found: list[str]) -> None:
    assert prompts.instructions(text) == found


def test_a_name_without_braces_is_an_ordinary_word() -> None:
    assert prompts.bare_names("a photo of {} Alice as a cowboy", ["alice", "bob"]) == ["alice"]
    assert prompts.bare_names("{alice} and bob", ["alice", "bob"]) == ["bob"]
    assert prompts.bare_names("alices bobby a.b", ["alice", "bob", "aXb"]) == []


def test_the_end_of_a_text_that_is_not_read(tokenizer: Any) -> None:
    assert prompts.unread(tokenizer, "snow " * (tiny.LENGTH - 2)) == ""
    assert prompts.unread(tokenizer, "snow " * (tiny.LENGTH - 2) + "a dog") == "a dog"


def test_proposals_are_slips_of_the_finger_or_usual_words() -> None:
    tokenizer = prompts.load_tokenizer(Path(model_spec.resolve("mini").folder))
    for word, first in (("zebra", "face"), ("womann", "woman"), ("catt", "cat"), ("perosn", "person")):
        with pytest.raises(UsageError) as caught:
            prompts.check_word(tokenizer, word)
        proposals = caught.value.next_step.removeprefix("use one of: ").split(", ")
        assert proposals[0] == first and set(proposals) <= set(prompts.COMMON_WORDS), proposals
