"""Stable Diffusion XL through every part of the engine, compared with the stock pipeline on a tiny random base."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_xl
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pmagic.bases import loading, memory_estimate
from pmagic.engine import (
    added_conditions,
    domain_check,
    face_embedding,
    inpainting,
    mapper,
    probe,
    rendering,
    step_cache,
    text_encoding,
    token_batch,
    training,
)
from pmagic.engine.recipes import render_settings_for, settings_for
from pmagic.errors import Incompatible
from pmagic.methods import custom_diffusion, dreambooth, lora, personamagic, textual_inversion
from pmagic.persona import StageBounds

pytest_plugins = ["tiny", "tiny_xl"]

PROMPT = "a photo of {} as a cowboy"
SPOKEN = "a photo of face as a cowboy"


@pytest.fixture(scope="module")
def pair(xl_base: loading.Base) -> token_batch.TokenBatch:
    return token_batch.tokens_with_name(xl_base, ["a photo of {} in the snow", "{} as a cowboy"], 3)


def stock(base: loading.Base, prompt: str, noise: torch.Tensor, **more: Any) -> torch.Tensor:
    """What diffusers' own pipeline draws from a text, with no code of this package."""
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline

    scheduler = DDIMScheduler.from_config(base.pipeline.scheduler.config, steps_offset=1, clip_sample=False)
    pipeline = StableDiffusionXLPipeline(**{**base.pipeline.components, "scheduler": scheduler}, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    given = {"guidance_scale": 3.0, "num_inference_steps": 4, "output_type": "latent", "latents": noise, **more}
    return pipeline(prompt=prompt, height=tiny.SIZE, width=tiny.SIZE, **given).images


@pytest.mark.parametrize("negative", ["", "bright painting"])
@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_a_plain_prompt_is_drawn_as_the_stock_pipeline_draws_it(
    xl_base: loading.Base, negative: str, guidance: float
) -> None:
    settings = render_settings_for("paper", {}, steps=4, guidance=guidance, negative=negative)
    noise = rendering.initial_noise(xl_base, [3], tiny.SIZE, tiny.SIZE)
    words = {"": "face"}
    from pmagic.engine import composing

    with composing.apply_personas(xl_base, words) as wordings:
        read = rendering.encode_prompt(xl_base, wordings, PROMPT, settings, words)
        found = rendering.sample(xl_base, read, noise, settings)
    # The stock pipeline reads zeros only where no negative prompt is given at all.
    expected = stock(xl_base, SPOKEN, noise, negative_prompt=negative or None, guidance_scale=guidance)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert tiny.hooks_of(xl_base) == []


def test_a_base_that_does_not_read_zeros_reads_the_empty_sentence(xl_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(xl_folder, xl_folder.with_name("encodes-empty"))
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "force_zeros_for_empty_prompt": False}))
    base = tiny.open_base(folder)
    found = token_batch.encode_negative(base, "")
    assert torch.equal(found.keys, token_batch.encode_plain(base, "").keys) and found.keys.abs().max() > 0
    assert not token_batch.encode_negative(tiny.open_base(xl_folder), "").keys.any()


def test_plain_text_is_encoded_as_by_the_stock_pipeline(xl_base: loading.Base) -> None:
    first, second = xl_base.tokenizers
    assert first.pad_token_id == first.eos_token_id and second.pad_token == "!"
    keys, _, pooled, _ = xl_base.pipeline.encode_prompt(SPOKEN, device="cpu")
    found = token_batch.encode_plain(xl_base, SPOKEN)
    assert torch.equal(found.keys, keys) and torch.equal(found.values, keys)
    assert found.pooled is not None and torch.equal(found.pooled, pooled)
    assert keys.shape == (1, tiny.LENGTH, sum(tiny_xl.WIDTHS)) and pooled.shape == (1, tiny_xl.POOLED)


def test_tokens_of_the_word_itself_are_the_word(xl_base: loading.Base) -> None:
    """Also in the padding, where the two tokenizers differ, and in the values with a residual of zero."""
    word = token_batch.word_embedding(xl_base, "dog")
    batch = token_batch.tokens_with_name(xl_base, ["a photo of {} in the snow"], 1)
    tokens = word.expand(1, 1, -1)
    expected = token_batch.encode_plain(xl_base, "a photo of dog in the snow").keys
    for residual in (None, torch.zeros_like(tokens)):
        found = text_encoding.encode(xl_base, batch, tokens, residual).condition
        assert torch.equal(found.keys, expected) and torch.equal(found.values, expected)


def test_a_residual_changes_the_values_of_both_encoders_at_the_name_and_keeps_their_lengths(
    xl_base: loading.Base, pair: token_batch.TokenBatch
) -> None:
    word = token_batch.word_embedding(xl_base, "dog").expand(2, 3, -1)
    found = text_encoding.encode(xl_base, pair, word, torch.randn(word.shape)).condition
    at_name = pair.placeholder_index >= 0
    assert torch.equal(found.keys[~at_name], found.values[~at_name])
    for keys, values in zip(*(each.split(tiny_xl.WIDTHS, dim=-1) for each in (found.keys, found.values)), strict=True):
        assert (keys[at_name] - values[at_name]).abs().min() > 0
        torch.testing.assert_close(keys[at_name].norm(dim=-1), values[at_name].norm(dim=-1))


def test_attention_is_that_of_the_layers_that_are_read(xl_base: loading.Base, pair: token_batch.TokenBatch) -> None:
    """Of both encoders, joined on the axis of heads; as transformers computes it with explicit matrices."""
    word = token_batch.word_embedding(xl_base, "dog").expand(2, 3, -1)
    found = text_encoding.encode(xl_base, pair, word, None, with_attention=True).attention
    assert found is not None and found.shape == (2, 4, tiny.LENGTH, tiny.LENGTH)
    ids = pair.ids.masked_fill(pair.placeholder_index >= 0, int(xl_base.pipeline.tokenizer("dog").input_ids[1]))
    encoder = xl_base.pipeline.text_encoder
    kept = encoder.config._attn_implementation
    encoder.set_attn_implementation("eager")
    try:
        output = encoder(ids, output_attentions=True)
    finally:
        encoder.set_attn_implementation(kept)
    torch.testing.assert_close(found[:, :2], output.attentions[-2])


def test_the_pooled_vector_is_that_of_the_plain_sentence(xl_base: loading.Base) -> None:
    """Placeholders hold the end token, at which the second encoder would pool."""
    settings = render_settings_for("paper", {}, steps=2)
    persona = learn(xl_base, bounds=StageBounds(0, 1000))
    with personamagic_worn(xl_base, persona) as wordings:
        read = rendering.encode_prompt(xl_base, wordings, PROMPT, settings, {"": "face"})
    assert read.pooled is not None
    assert torch.equal(read.pooled, xl_base.pipeline.encode_prompt(SPOKEN, device="cpu")[2])


def personamagic_worn(base: loading.Base, persona: Any) -> Any:
    from pmagic.engine import composing

    return composing.apply_personas(base, {"": persona})


def learn(base: loading.Base, method: Any = personamagic, **overrides: Any) -> Any:
    settings = method.settings_for("reference", {}, **tiny.train_step(iterations=2, **overrides))
    return method.learn(base, tiny.known(base), settings)


def test_each_part_of_a_token_has_the_length_of_its_encoders_word(xl_base: loading.Base) -> None:
    settings = settings_for("reference", {})
    learner = probe.make_mapper(xl_base, tiny.known(xl_base), settings)
    with torch.no_grad():
        learner.dynamic_out.bias += torch.randn(len(learner.dynamic_out.bias))
    dynamic, residual = learner(torch.tensor([500.0]), torch.randn(1, 24))
    assert dynamic.shape == residual.shape == (1, 4, sum(tiny_xl.WIDTHS))
    words = token_batch.word_embedding(xl_base, "face").split(tiny_xl.WIDTHS)
    for part, word in zip(dynamic.split(tiny_xl.WIDTHS, dim=-1), words, strict=True):
        torch.testing.assert_close(part.norm(dim=-1), word.norm().expand(1, 4))
    one = mapper.Mapper(mapper.MapperShape(4, 80, 24), torch.cat(words), StageBounds(400, 800))
    same = mapper.Mapper(mapper.MapperShape(4, 80, 24, (80,)), torch.cat(words), StageBounds(400, 800))
    same.load_state_dict(one.state_dict())
    given = torch.tensor([500.0]), torch.randn(1, 24)
    assert torch.equal(one(*given)[0], same(*given)[0])


@pytest.mark.parametrize("method", [personamagic, textual_inversion, custom_diffusion, lora, dreambooth])
def test_every_method_learns_and_draws_and_leaves_the_base_alone(xl_base: loading.Base, method: Any) -> None:
    before = loading.weights_hash(xl_base.pipeline)
    persona = learn(xl_base, method)
    assert all(np.isfinite(each).all() for each in persona.tensors.values())
    settings = render_settings_for("paper", {}, steps=2, guidance=2.0)
    plain = rendering.render(xl_base, None, PROMPT, [0], settings, word="face")[0]
    (drawn,) = rendering.render(xl_base, persona, PROMPT, [0], settings)
    assert drawn.size == (tiny.SIZE, tiny.SIZE) and drawn.tobytes() != plain.tobytes()
    assert loading.weights_hash(xl_base.pipeline) == before and tiny.hooks_of(xl_base) == []


def test_the_unet_is_told_the_sizes_of_the_photo_in_learning(xl_base: loading.Base) -> None:
    seen = tiny.known(xl_base, (0, 1))  # photos of 40 x 48 pixels
    assert seen.sides == (40, 40)
    found = added_conditions.of_training(xl_base, seen, ("a photo of a {}", "a painting of {}"))
    assert found is not None
    rows = found.rows(torch.tensor([1, 0, 1]), torch.tensor([0, 1, 1]))
    assert rows["time_ids"].tolist() == [[40, 40, 0, 0, 32, 32]] * 3
    expected = token_batch.encode_plain(xl_base, "a painting of face").pooled
    assert expected is not None and torch.equal(rows["text_embeds"][0], expected[0])
    assert not torch.equal(rows["text_embeds"][1], expected[0])


def test_a_base_of_one_encoder_has_no_added_conditions(tiny_base: loading.Base) -> None:
    assert added_conditions.of_training(tiny_base, tiny.known(tiny_base), ("a photo of a {}",)) is None
    assert added_conditions.of_picture(tiny_base, "a photo", 2) is None


def test_a_base_that_predicts_velocity_learns_and_draws(xl_folder: Path) -> None:
    folder = shutil.copytree(xl_folder, xl_folder.with_name("velocity"), dirs_exist_ok=True)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "v_prediction"}))
    base = tiny.open_base(folder)
    subject = tiny.known(base)
    settings = settings_for("reference", {}, **tiny.train_step())
    context = training.prepare_training(base, subject, settings)
    draw = training.sample_of_step(subject, settings, 0)
    output = training.forward_step(context, probe.make_mapper(base, subject, settings), draw)
    alpha = output.signal[:, None, None, None]
    noise = (output.noisy - alpha.sqrt() * output.latents) / (1 - alpha).sqrt()
    torch.testing.assert_close(output.target, alpha.sqrt() * noise - (1 - alpha).sqrt() * output.latents)
    noise = rendering.initial_noise(base, [3], tiny.SIZE, tiny.SIZE)
    drawn = render_settings_for("paper", {}, steps=4, guidance=3.0)
    with personamagic_worn(base, "face") as wordings:
        read = rendering.encode_prompt(base, wordings, PROMPT, drawn, {"": "face"})
        found = rendering.sample(base, read, noise, drawn)
    torch.testing.assert_close(found, stock(base, SPOKEN, noise), rtol=1e-5, atol=1e-4)


def test_regions_with_the_same_text_everywhere_draw_the_picture_without_regions(xl_base: loading.Base) -> None:
    settings = render_settings_for("paper", {}, steps=3, guidance=3.0)
    noise = rendering.initial_noise(xl_base, [3], tiny.SIZE, tiny.SIZE)
    drawn = []
    for regions in ({}, {"": (0.0, 0.0, 0.5, 1.0)}):
        with personamagic_worn(xl_base, "face") as wordings:
            read = rendering.encode_prompt(xl_base, wordings, PROMPT, settings, {"": "face"}, regions)
            drawn.append(rendering.sample(xl_base, read, noise, settings))
    torch.testing.assert_close(*drawn, rtol=1e-4, atol=1e-4)


def test_a_persona_is_drawn_into_a_background_which_stays(xl_base: loading.Base) -> None:
    background = tiny.photo(4, (70, 50))
    mask = Image.new("L", background.size, 0)
    mask.paste(255, (20, 10, 50, 40))
    edit = inpainting.inpaint_region(background, mask, (tiny.SIZE, tiny.SIZE))
    settings = render_settings_for("paper", {}, steps=3, guidance=3.0)
    (found,) = rendering.compose(xl_base, {"": learn(xl_base)}, PROMPT, [1], settings, edit=edit)
    changed = (np.asarray(found) != np.asarray(background)).any(axis=2)
    inside = np.asarray(mask) > 0
    assert changed[inside].mean() > 0.9 and not changed[~inside].any()


def test_inpainting_of_everything_is_drawing(xl_base: loading.Base) -> None:
    """With a mask everywhere nothing of the background is blended in; the sizes that the UNet reads are the same."""
    background = tiny.photo(4, (tiny.SIZE, tiny.SIZE))
    edit = inpainting.inpaint_region(background, Image.new("L", background.size, 255), background.size)
    settings = render_settings_for("paper", {}, steps=3, guidance=3.0)
    drawn = [rendering.compose(xl_base, {"": "face"}, PROMPT, [1], settings, edit=each)[0] for each in (None, edit)]
    difference = np.abs(np.asarray(drawn[0], dtype=int) - np.asarray(drawn[1], dtype=int))
    assert difference.max() <= 1


def test_first_steps_are_shared_only_by_pictures_of_the_same_sentence(xl_base: loading.Base) -> None:
    cache = step_cache.UNetCache()
    unet, settings = xl_base.pipeline.unet, render_settings_for("paper", {}, steps=2, guidance=1.0)
    noise = rendering.initial_noise(xl_base, [3], tiny.SIZE, tiny.SIZE)
    with personamagic_worn(xl_base, "face") as wordings:
        read = rendering.encode_prompt(xl_base, wordings, PROMPT, settings, {"": "face"})
    assert read.pooled is not None
    other = replace(read, pooled=read.pooled + 1)
    expected = [rendering.sample(xl_base, each, noise, settings) for each in (read, other)]
    assert not torch.equal(*expected)
    with step_cache.cached_first_steps(unet, cache, since=0):
        for _ in range(2):
            found = [rendering.sample(xl_base, each, noise, settings) for each in (read, other)]
            assert all(torch.equal(*each) for each in zip(found, expected, strict=True))
    assert len(cache) == 4  # two steps of two sentences, each computed once


def test_low_memory_computes_the_same_gradient(xl_base: loading.Base) -> None:
    from pmagic.engine import memory

    subject = tiny.known(xl_base)
    settings = settings_for(
        "paper", {}, **tiny.train_step(losses={"masked_mse": 1.0, "tandem_equilibrium": 0.1}), bounds=(400, 800)
    )
    plain = training.first_step_gradient(xl_base, subject, settings, probe.make_mapper)
    with memory.gradient_checkpointing(xl_base.pipeline):
        low = training.first_step_gradient(xl_base, subject, settings, probe.make_mapper)
    assert torch.equal(plain, low) and plain.abs().max() > 0


def test_the_probe_and_the_domain_check_ask_the_unet_with_what_it_reads(xl_base: loading.Base) -> None:
    found = probe.probe(
        xl_base, tiny.known(xl_base), settings_for("paper", {}, **tiny.train_step(), probe_iterations=1)
    )
    assert len(found.curve) == len(probe.GRID) and all(0 <= iou <= 1 for _, iou in found.curve)
    assert 0 < domain_check.denoising_error(xl_base, tiny.photo(1), "face") < 10


def test_the_autoencoder_stays_out_of_float16(xl_folder: Path, xl_base: loading.Base) -> None:
    base = tiny.open_base(xl_folder, dtype="float16")
    assert base.pipeline.vae.dtype == torch.float32
    assert {base.pipeline.unet.dtype, *(each.dtype for each in base.text_encoders)} == {torch.float16}
    assert tiny.open_base(xl_folder, dtype="bfloat16").pipeline.vae.dtype == torch.bfloat16
    settings = render_settings_for("paper", {}, steps=2, guidance=2.0)
    (drawn,) = rendering.render(base, None, PROMPT, [0], settings, word="face")
    (exact,) = rendering.render(xl_base, None, PROMPT, [0], settings, word="face")
    assert np.abs(np.asarray(drawn, dtype=int) - np.asarray(exact, dtype=int)).mean() < 3


def test_an_old_gpu_decodes_faces_in_float32(xl_base: loading.Base, tiny_base: loading.Base) -> None:
    """It has no bfloat16, so the UNet computes in float16."""
    half = replace(xl_base, compute_dtype=torch.float16)
    decoder = face_embedding._decoder(half)
    assert half.decoder_dtype is None and {each.dtype for each in decoder.parameters()} == {torch.float32}
    assert replace(xl_base, compute_dtype=torch.bfloat16).decoder_dtype == torch.bfloat16
    assert replace(tiny_base, compute_dtype=torch.float16).decoder_dtype == torch.float16


def test_the_fingerprint_covers_the_second_encoder(xl_folder: Path) -> None:
    folder = shutil.copytree(xl_folder, xl_folder.with_name("changed"))
    assert loading.fingerprint(folder) == loading.fingerprint(xl_folder)
    file = folder / "text_encoder_2" / "model.safetensors"
    weights = load_file(file)
    weights["text_projection.weight"][0, 0] += 1
    save_file(weights, file)
    assert loading.fingerprint(folder) != loading.fingerprint(xl_folder)


def test_memory_counts_both_encoders(xl_base: loading.Base) -> None:
    numbers = sum(
        sum(each.numel() for each in getattr(xl_base.pipeline, name).parameters())
        for name in loading.models_of(xl_base.pipeline)
    )
    assert sum(memory_estimate.parameters_by_part(xl_base.spec).values()) == numbers
    assert memory_estimate.text_width(xl_base.spec) == sum(tiny_xl.WIDTHS)
    for half, low, sample in ((True, True, 2.2e9), (False, False, 12.4e9)):  # of 128 x 128 latents and 320 channels
        unet = sum(each.numel() for each in xl_base.pipeline.unet.parameters())
        expected = 4 * numbers - 2 * unet * half + int(2 * sample * (8 * 8) / (128 * 128) * 16 / 320)
        assert abs(memory_estimate.memory_to_learn(xl_base.spec, 2, half=half, low=low) - expected) <= 1


def changes(part: str, **values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / part
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def without_a_word(folder: Path) -> None:
    path = folder / "tokenizer_2" / "tokenizer.json"
    table = json.loads(path.read_text())
    vocabulary = table["model"]["vocab"]
    vocabulary["snowy</w>"] = vocabulary.pop("snow</w>")
    table["model"]["merges"] = [each for each in table["model"]["merges"] if list(each) != ["sno", "w</w>"]]
    path.write_text(json.dumps(table))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changes("scheduler/scheduler_config.json", _class_name="EDMEulerScheduler"), "trained with EDM's noise"),
        (without_a_word, "the two tokenizers in .* have different words"),
    ],
    ids=["edm", "words"],
)
def test_a_pair_that_does_not_fit_is_refused(
    xl_folder: Path, tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    folder = shutil.copytree(xl_folder, tmp_path / "xl")
    (folder / "pmagic.toml").write_text(f'[observers]\nclip = "{xl_folder}-clip"\n')
    change(folder)
    with pytest.raises(Incompatible, match=said):
        tiny.open_base(folder)
