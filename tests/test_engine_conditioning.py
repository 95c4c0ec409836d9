"""The three hooks: exact where they should change nothing, differentiable where they should, gone afterwards."""

import pytest
import tiny
import torch

from pmagic.bases import loading
from pmagic.engine import token_batch
from pmagic.engine.conditioning import Condition, encode, packed_kv, timestep_switch
from pmagic.engine.token_batch import TokenBatch

pytest_plugins = ["tiny"]


@pytest.fixture(scope="module")
def said(tiny_base: loading.Base) -> TokenBatch:
    return token_batch.tokens_with_name(tiny_base, ["a photo of {} in the snow", "{} as a cowboy"], 3)


def test_the_words_own_embedding_gives_the_plain_sentence(tiny_base: loading.Base, said: TokenBatch) -> None:
    word = token_batch.word_embedding(tiny_base, "dog").expand(2, 3, -1)
    encoder = tiny_base.pipeline.text_encoder
    found = encode(encoder, said.ids, said.placeholder_index, word, torch.zeros_like(word)).condition
    for row, text in enumerate(["a photo of dog dog dog in the snow", "dog dog dog as a cowboy"]):
        plain = token_batch.encode_plain(tiny_base, text)
        assert torch.equal(found.keys[row], plain.keys[0])
        assert torch.equal(found.values[row], plain.values[0])


def test_the_residual_moves_the_values_at_the_name_alone(tiny_base: loading.Base, said: TokenBatch) -> None:
    dynamic, residual = torch.randn(2, 3, tiny.WIDTH), torch.randn(2, 3, tiny.WIDTH)
    found = encode(tiny_base.pipeline.text_encoder, said.ids, said.placeholder_index, dynamic, residual).condition
    moved = (found.keys != found.values).any(dim=-1)
    assert torch.equal(moved, said.placeholder_index >= 0)


def test_attention_is_that_of_the_eager_encoder(tiny_base: loading.Base, said: TokenBatch) -> None:
    encoder = tiny_base.pipeline.text_encoder
    word = token_batch.word_embedding(tiny_base, "dog").expand(2, 3, -1)
    found = encode(encoder, said.ids, said.placeholder_index, word, None, with_attention=True).attention
    plain = said.ids.masked_fill(said.placeholder_index >= 0, tiny_base.pipeline.tokenizer("dog").input_ids[1])
    encoder.set_attn_implementation("eager")
    try:
        expected = encoder(plain, output_attentions=True).attentions[-1]
    finally:
        encoder.set_attn_implementation("sdpa")
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert found.triu(1).eq(0).all()
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(found.shape[:-1]))


def test_packed_attention_reads_keys_and_values_apart(tiny_base: loading.Base) -> None:
    unet = tiny_base.pipeline.unet
    noisy, t = torch.randn(1, 4, 8, 8), torch.tensor([500])
    keys, values = torch.randn(2, 1, 77, tiny.WIDTH).requires_grad_()
    plain = unet(noisy, t, encoder_hidden_states=keys).sample
    with packed_kv(unet):
        assert torch.equal(unet(noisy, t, encoder_hidden_states=keys).sample, plain)  # not packed: as ever
        assert torch.equal(unet(noisy, t, encoder_hidden_states=Condition(keys, keys).pack()).sample, plain)
        apart = unet(noisy, t, encoder_hidden_states=Condition(keys, values).pack()).sample
    assert not torch.equal(apart, plain)
    for gradient in torch.autograd.grad(apart.sum(), [keys, values]):
        assert gradient.abs().max() > 0
    assert tiny.hooks_of(tiny_base) == []


def test_the_switch_changes_only_the_conditional_half(tiny_base: loading.Base) -> None:
    unet = tiny_base.pipeline.unet
    noisy, condition = torch.randn(2, 4, 8, 8), torch.randn(2, 77, tiny.WIDTH)
    other = torch.randn(77, tiny.WIDTH)
    with torch.no_grad():
        expected = unet(noisy, torch.tensor(7), encoder_hidden_states=torch.stack([condition[0], other])).sample
        with timestep_switch(unet, {7.0: other}, pictures=1):
            assert torch.equal(unet(noisy, torch.tensor(7), encoder_hidden_states=condition).sample, expected)
            with pytest.raises(KeyError):
                unet(noisy, torch.tensor(8), encoder_hidden_states=condition)
    assert tiny.hooks_of(tiny_base) == []
