"""Captions are encoded together as one by one, and once for a base; a merge is kept as long as nothing changes."""

from dataclasses import replace

import pytest
import tiny
import torch

from pmagic.bases import loading
from pmagic.engine import captions, token_batch
from pmagic.engine.hooks import exchanged_parameters
from pmagic.engine.last_result import LastResult
from pmagic.methods import custom_diffusion

pytest_plugins = ["tiny"]


def test_together_as_one_by_one(tiny_base: loading.Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference pads each caption to the positions that the UNet reads."""
    some = ["a photo of a face", "face", "a nice oil painting of the dog with a hat in the snow", "word " * 100]
    monkeypatch.setattr(captions, "captions", lambda: some)
    monkeypatch.setattr(captions, "_factors", LastResult())  # nothing is kept of the usual captions
    tokenizer = tiny_base.pipeline.tokenizer
    alone = []
    for text in sorted(some, key=len):
        length = len(tokenizer(text, truncation=True).input_ids)
        alone.append(token_batch.encode_plain(tiny_base, text).keys[0, 1:length].double())
    rows = captions.caption_rows(tiny_base)
    assert len(alone[-1]) == 76 and torch.allclose(rows, torch.cat(alone), atol=1e-5)
    factor = captions.caption_factor(tiny_base)
    assert factor.shape == (tiny.WIDTH, tiny.WIDTH) and torch.allclose(factor.T @ factor, rows.T @ rows, atol=1e-8)


def test_they_are_encoded_once_for_the_same_weights(tiny_base: loading.Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "captions", lambda: ["a photo of a face"] * 3 + ["dog"] * 40)
    monkeypatch.setattr(captions, "_factors", LastResult())
    made: list[torch.Tensor] = []
    real = captions.caption_rows
    monkeypatch.setattr(captions, "caption_rows", lambda base: made.append(real(base)) or made[-1])
    first = captions.caption_factor(tiny_base)
    assert captions.caption_factor(tiny_base) is first and len(made) == 1
    encoder = tiny_base.pipeline.text_encoder
    name = "final_layer_norm.weight" if not hasattr(encoder, "text_model") else "text_model.final_layer_norm.weight"
    with exchanged_parameters(encoder, {name: encoder.get_parameter(name).detach() * 2}):
        assert not torch.allclose(captions.caption_factor(tiny_base).abs(), first.abs())
    assert torch.equal(captions.caption_factor(tiny_base), first) and len(made) == 3


def test_a_merge_is_kept_for_the_same_personas_and_weights(
    tiny_base: loading.Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = custom_diffusion.settings_for("reference", {}, **tiny.train_step(learning_rate=1e-2, iterations=1))
    alice, bob = (custom_diffusion.learn(tiny_base, tiny.known(tiny_base, (seed,)), settings) for seed in (0, 1))
    unet = tiny_base.pipeline.unet
    path, _, leaf = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight".rpartition(".")

    def weight(*personas) -> torch.Tensor:
        with custom_diffusion.apply(tiny_base, personas):
            return unet.get_submodule(path)._parameters[leaf]

    merged = weight(alice, bob)
    assert weight(alice, bob) is merged
    other = {name: array * 2 if name.startswith("weights.") else array for name, array in bob.tensors.items()}
    assert not torch.equal(weight(alice, replace(bob, tensors=other)), merged)
    with exchanged_parameters(unet, {f"{path}.{leaf}": unet.get_submodule(path).weight.detach() + 1}):
        assert not torch.allclose(weight(alice, bob), merged, atol=0.1)
    assert torch.equal(weight(alice, bob), merged)
