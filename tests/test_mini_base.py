"""The base's training data: captions that name people by embeddings, and their text states."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from pmagic.experiments import naming
from pmagic.mini import base_material, base_networks, base_teacher, train_base, vocabulary
from pmagic.mini.train import WEIGHTS
from pmagic.world.people import person, trait_vector
from pmagic.world.scenes import MARK


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(WEIGHTS / "base" / "tokenizer")


@pytest.fixture(scope="module")
def networks(tokenizer: CLIPTokenizer) -> base_networks.Networks:
    torch.manual_seed(0)
    return base_networks.Networks(tokenizer).eval()


def test_a_mark_takes_as_many_places_as_a_name_has_embeddings(tokenizer: CLIPTokenizer) -> None:
    said = base_material.read(tokenizer, [f"a photo of {MARK} and {MARK}", "a photo of a face", ""])
    assert said.placeholder_index[0, :14].tolist() == [-1, -1, -1, -1, 0, 1, 2, 3, -1, 4, 5, 6, 7, -1]
    assert (said.placeholder_index[1:] == -1).all()
    assert said.lengths.tolist() == [13, 6, 1]
    word = tokenizer("face").input_ids[1]
    assert (said.ids[0, 4:8] == word).all() and said.ids[0, 13] == tokenizer.eos_token_id
    assert said.ids.shape == (3, vocabulary.LENGTH)


def test_a_caption_without_a_mark_is_what_the_text_encoder_says(networks, tokenizer: CLIPTokenizer) -> None:
    said = base_material.read(tokenizer, ["a photo of a face in the snow"])
    traits, noise = torch.zeros(1, 2, len(trait_vector(person(0)))), torch.zeros(1, 8, base_networks.WIDTH)
    with torch.no_grad():
        states = networks.say(said.ids.long(), said.placeholder_index.long(), traits, noise)
        stock = networks.text(said.ids.long()).last_hidden_state
    torch.testing.assert_close(states, stock, rtol=0, atol=0)


def test_names_are_as_long_as_a_word_and_stand_at_their_marks(networks, tokenizer: CLIPTokenizer) -> None:
    traits = torch.from_numpy(trait_vector(person(5))).expand(1, 2, -1)
    noise = torch.randn(1, 8, base_networks.WIDTH)
    table = networks.text.get_input_embeddings().weight
    names = networks.names(traits, table[networks.word], noise)
    torch.testing.assert_close(names.norm(dim=-1), torch.full((1, 8), base_networks.TOKEN_LENGTH))
    torch.testing.assert_close(table.norm(dim=-1), torch.full((len(table),), base_networks.TOKEN_LENGTH))
    said = base_material.read(tokenizer, [f"a photo of {MARK} in the snow"])
    with torch.no_grad():
        one = networks.say(said.ids.long(), said.placeholder_index.long(), traits, 0 * noise)
        other = networks.say(said.ids.long(), said.placeholder_index.long(), -traits, 0 * noise)
    changed = (one != other).any(dim=-1)[0]
    assert not changed[:4].any() and changed[4:8].all()  # causal: nothing before the name depends on it


def test_small_pieces_are_taken_up_whole(networks: base_networks.Networks, tmp_path: Path) -> None:
    train_base.write_pieces(networks, tmp_path / "out", samples=5)
    sizes = [file.stat().st_size for file in (tmp_path / "out").iterdir()]
    assert len(sizes) > 2 and max(sizes) < 15e6
    train_base.take_pieces(tmp_path / "out", tmp_path)
    with pytest.raises(SystemExit, match="no weights"):
        train_base.take_pieces(tmp_path / "elsewhere", tmp_path)
    state = load_file(tmp_path / "base.safetensors")
    for key, weight in networks.state_dict().items():
        assert torch.equal(state[f"model.{key}"], weight) and torch.equal(state[f"average.{key}"], weight)


def test_the_usual_error_runs_at_each_level_alone(tokenizer: CLIPTokenizer) -> None:
    latents = torch.zeros(1, 4, 16, 16)
    given = base_material.Material(
        latents=latents, faces=latents, said=base_material.read(tokenizer, ["a"]), traits=latents, empty=None
    )
    teacher = base_teacher.Teacher(given, None, None, torch.Generator())
    t = torch.tensor([10, 20, 990])
    assert teacher._usual(t, torch.tensor([1.0, 3.0, 8.0])).tolist() == [2.0, 2.0, 8.0]  # the first counts whole
    after = teacher._usual(torch.tensor([30, 500]), torch.tensor([4.0, 5.0])).tolist()
    assert after == pytest.approx([2.0 + 0.05 * 2.0, 5.0])
    assert teacher._usual(torch.tensor([999]), torch.tensor([8.0])).tolist() == [8.0]


def test_the_shipped_base_knows_a_stranger_by_name() -> None:
    told = {t: (own, other) for t, own, other, _ in naming.measure(WEIGHTS, people=24)}
    assert all(other > 0.2 for t, (_, other) in told.items() if t <= 800)
    assert told[200][0] > told[600][0] > told[950][0]  # less noise, more of it unseen
