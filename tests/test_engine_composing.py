"""Several personas in one prompt: each has the same embeddings at every timestep as alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from pmagic.bases import loading
from pmagic.engine import composing, prompts, rendering, token_batch
from pmagic.engine.recipes import RenderSettings, settings_for
from pmagic.errors import Incompatible, UsageError
from pmagic.methods import personamagic
from pmagic.persona import Persona, StageBounds

pytest_plugins = ["tiny"]

FEW = RenderSettings(steps=10, guidance=4.0, negative="man with dog")
PROMPT = "a photo of {alice} with {bob} in snow"


@pytest.fixture(scope="module")
def alice(tiny_base: loading.Base) -> Persona:
    """A face, dynamic at 400 <= t < 800."""
    return personamagic.learn(tiny_base, tiny.known(tiny_base), settings_for("reference", {}, **tiny.train_step()))


@pytest.fixture(scope="module")
def bob(alice: Persona) -> Persona:
    """A dog, dynamic at 200 <= t < 600, with weights of its own."""
    source = np.random.default_rng(1)
    tensors = {name: array + source.normal(0, 0.1, array.shape) for name, array in alice.tensors.items()}
    return replace(alice, word="dog", bounds=StageBounds(200, 600), tensors=tensors)


@pytest.fixture(scope="module")
def hat(alice: Persona) -> Persona:
    """Two tokens of textual inversion, without stages and without a residual."""
    vectors = np.random.default_rng(2).normal(0, 0.1, (2, tiny.WIDTH)).astype(np.float32)
    return replace(alice, method="textual_inversion", word="hat", tensors={"learner.vectors": vectors})


@pytest.fixture(scope="module")
def personas(alice: Persona, bob: Persona) -> dict[str, Persona]:
    return {"alice": alice, "bob": bob}


def rows(base: loading.Base, personas: dict[str, Persona | str], prompt: str) -> dict[float, Tensor]:
    with composing.apply_personas(base, personas) as wordings:
        return dict(rendering.encode_prompt(base, wordings, prompt, FEW).rows)


@contextmanager
def embedded(base: loading.Base) -> Iterator[list[Tensor]]:
    """Every output of the token embedding, as the layers after it read it."""
    seen: list[Tensor] = []
    with torch.no_grad():
        norm = base.pipeline.text_encoder.embeddings.position_embedding
        layer = base.pipeline.text_encoder.embeddings
        hook = layer.register_forward_hook(lambda module, args, output: seen.append(output - norm.weight))
        try:
            yield seen
        finally:
            hook.remove()


def test_each_is_in_a_stage_of_its_own(tiny_base: loading.Base, personas: dict[str, Persona]) -> None:
    """Where one persona is in a static stage, the row equals that of the other alone with the plain word."""
    both = rows(tiny_base, personas, PROMPT)
    only_bob = rows(tiny_base, {"bob": personas["bob"]}, "a photo of face with {bob} in snow")
    plain = token_batch.encode_plain(tiny_base, "a photo of face with dog in snow").pack()[0]
    seen = set()
    for t, row in both.items():
        if t >= 800:
            assert torch.equal(row, plain)
        elif t >= 600:
            only_alice = rows(tiny_base, {"alice": personas["alice"]}, "a photo of {alice} with dog in snow")
            torch.testing.assert_close(row, only_alice[t], atol=1e-5, rtol=0)
        else:
            assert not torch.allclose(row, only_bob[t], atol=1e-3)
        seen.add((t < 800) + (t < 600) + (t < 400) + (t < 200))
    assert seen == {0, 1, 2, 3, 4}
    last = [row for t, row in both.items() if t < 200]  # both are in their second static stage
    assert len(last) >= 2 and all(torch.equal(row, last[0]) for row in last)


def test_the_order_in_the_prompt_does_not_matter_to_their_own_embeddings(
    tiny_base: loading.Base, personas: dict[str, Persona]
) -> None:
    tokens = {name: 4 for name in personas}
    found = []
    for prompt in ("{alice} with {bob}", "snow {bob} in {alice}"):
        with composing.apply_personas(tiny_base, personas) as wordings, embedded(tiny_base) as seen:
            composing.encode_schedule(tiny_base, prompt, wordings, [500.0])
        placeholder_index = torch.tensor(
            prompts.check_names(tiny_base.pipeline.tokenizer, prompt, tokens).placeholder_index
        )
        found.append(torch.stack([seen[0][0, placeholder_index == slot].squeeze(0) for slot in range(8)]))
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=0)
    assert (found[0][:4] - found[0][4:]).abs().max() > 1e-3  # and the two are told apart


def test_two_that_learned_nothing_are_the_stock_sentence(tiny_base: loading.Base, personas: dict[str, Persona]) -> None:
    unlearned = {
        name: replace(
            each,
            bounds=StageBounds(0, 1000),
            tensors={**each.tensors, **{k: np.zeros_like(v) for k, v in each.tensors.items() if "_out." in k}},
        )
        for name, each in personas.items()
    }
    text = "a photo of face face face face with dog dog dog dog in snow"
    expected = token_batch.encode_plain(tiny_base, text).pack()[0]
    for row in rows(tiny_base, unlearned, PROMPT).values():
        assert torch.equal(row, expected)


def test_methods_mix(tiny_base: loading.Base, alice: Persona, hat: Persona) -> None:
    prompt = "{alice} with {hat}"
    row = rows(tiny_base, {"alice": alice, "hat": hat}, prompt)
    (inside,) = [t for t in row if 500 <= t < 600][:1]
    keys, values = row[inside].chunk(2, dim=-1)
    placeholder_index = torch.tensor(
        prompts.check_names(tiny_base.pipeline.tokenizer, prompt, {"alice": 4, "hat": 2}).placeholder_index
    )
    assert torch.equal(
        (keys != values).any(dim=-1), (placeholder_index >= 0) & (placeholder_index < 4)
    )  # the residual is alice's alone


def test_render_is_compose_with_one_persona(tiny_base: loading.Base, alice: Persona) -> None:
    (simple,) = rendering.render(tiny_base, alice, "a photo of {} in snow", [3], FEW)
    (named,) = rendering.compose(tiny_base, {"alice": alice}, "a photo of {alice} in snow", [3], FEW)
    assert named.tobytes() == simple.tobytes()


def test_a_name_may_stand_twice_and_a_word_may_stand_for_one(tiny_base: loading.Base, alice: Persona) -> None:
    twice = rows(tiny_base, {"alice": alice, "b": "face"}, "{alice} with {b} and {alice}")
    written = rows(tiny_base, {"alice": alice}, "{alice} with face and {alice}")
    assert all(torch.equal(twice[t], written[t]) for t in written)


def test_text_is_encoded_once_a_form_of_the_sentence(tiny_base: loading.Base, personas: dict[str, Persona]) -> None:
    calls: list[int] = []
    hook = tiny_base.pipeline.text_encoder.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    try:
        rows(tiny_base, personas, PROMPT)
    finally:
        hook.remove()
    # of 10 timesteps: 2 plain, 2 with alice alone, 4 with new tokens of either, the last 2 again the last of these;
    # and the negative prompt
    assert sorted(calls) == [1, 1, 2, 4]


def test_the_base_is_as_it_was_after_a_picture_and_after_an_error(
    tiny_base: loading.Base, personas: dict[str, Persona]
) -> None:
    before = loading.weights_hash(tiny_base.pipeline)
    regions = {"alice": (0.0, 0.0, 0.5, 1.0), "bob": (0.5, 0.0, 1.0, 1.0)}
    for failing in (False, True):

        def on_step(done: int, total: int, failing: bool = failing) -> None:
            if failing and done == 3:
                raise InterruptedError

        try:
            rendering.compose(tiny_base, personas, PROMPT, [0], FEW, regions=regions, on_step=on_step)
            assert not failing
        except InterruptedError:
            assert failing
        assert tiny.hooks_of(tiny_base) == []
        assert loading.weights_hash(tiny_base.pipeline) == before


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a photo of {alice}", "has no {bob}"),
        ("{alice} with {bob} and {carol}", "nobody stands for {carol}"),
        ("{alice} with {bob} and {}", "nobody stands for {}"),
        (
            "{alice} " + "snow " * 71 + "{bob}",
            "{bob} stands beyond the 75 tokens that the model reads, which end after",
        ),
    ],
)
def test_names_that_cannot_be_read(
    tiny_base: loading.Base, personas: dict[str, Persona], prompt: str, said: str
) -> None:
    with pytest.raises(UsageError) as raised:
        rendering.compose(tiny_base, personas, prompt, [0], FEW)
    assert said in raised.value.what


def test_a_persona_of_another_base_is_refused(tiny_folders: dict[str, Path], personas: dict[str, Persona]) -> None:
    base = tiny.open_base(tiny_folders["sd2"])
    mixed = {"alice": replace(personas["alice"], fingerprint=base.fingerprint), "bob": personas["bob"]}
    with pytest.raises(Incompatible, match="was learned on"):
        rendering.compose(base, mixed, PROMPT, [0], FEW)
    assert tiny.hooks_of(base) == []
