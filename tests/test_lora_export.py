"""LoRA files for other programs: diffusers draws with them what pmagic draws, and what they cannot hold is told."""

import json
from pathlib import Path

import lora_samples
import numpy as np
import pytest
import safetensors.torch
import tiny
import torch
from lora_samples import by_diffusers, by_pmagic, distance
from typer.testing import CliRunner

from pmagic import methods
from pmagic.bases import loading, local_bases
from pmagic.cli.app import app
from pmagic.engine import composing, lora_export
from pmagic.library.store import Library

pytest.importorskip("peft", reason="diffusers loads LoRA files with peft")
pytest_plugins = ["tiny"]
runner = CliRunner()


def keep(base: loading.Base, library: Library, method: str, **overrides: object):
    """A persona named alice, learned in few steps of a rate so large that it shows."""
    local_bases.remember(base.spec, base.fingerprint)
    module = methods.take(method)
    settings = module.settings_for(
        "reference", base.spec.defaults, **{**tiny.train_step(), "learning_rate": 0.02, **overrides}
    )
    persona = module.learn(base, tiny.known(base), settings)
    library.save("alice", persona)
    return persona


def export(tmp_path: Path, form: str) -> dict:
    done = runner.invoke(app, ["export", "alice", str(tmp_path / "out.safetensors"), "--format", form, "--json"])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("form", ["peft", "kohya"])
def test_a_lora_is_the_same_in_diffusers_and_back(
    tiny_base: loading.Base, library: Library, tmp_path: Path, form: str
) -> None:
    persona = keep(tiny_base, library, "lora")
    bare = lora_samples.outputs(tiny_base.pipeline, *lora_samples.inputs(tiny_base))
    found = export(tmp_path, form)
    assert (found["ranks"], found["left_out"], found["lost"], found["warnings"]) == ([4, 4], [], 0.0, [])
    own = by_pmagic(tiny_base, persona)
    theirs = by_diffusers(tiny_base, Path(tiny_base.spec.name), Path(found["files"][0]))
    assert distance(own[1], theirs[1]) < 1e-5 and distance(own[1], bare[1]) > 0.01
    file, base = found["files"][0], tiny_base.spec.name
    assert found["words"] == "<alice> face"  # the tiny vocabulary has no sks
    done = runner.invoke(app, ["import", file, "--as", "back", "--base", base, "--word", "sks face"])
    assert done.exit_code == 0, done.stderr
    again = library.load("back")[1]
    for name, array in persona.tensors.items():
        if name.startswith("weights."):
            assert np.array_equal(again.tensors[name], array)


def test_a_new_word_is_in_a_file_of_its_own(tiny_base: loading.Base, library: Library, tmp_path: Path) -> None:
    """With both files, diffusers encodes the prompt as pmagic does, and the UNet is nearly the same."""
    from diffusers import StableDiffusionPipeline

    persona = keep(tiny_base, library, "custom_diffusion", token_rate=0.02)
    found = export(tmp_path, "peft")
    assert 0 < found["lost"] < 1e-3 and found["left_out"] == []
    assert Path(found["files"][1]).name == "out-word.safetensors"
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base.spec.name, safety_checker=None, local_files_only=True)
    pipeline.load_lora_weights(str(tmp_path), weight_name="out.safetensors")
    pipeline.load_textual_inversion(found["files"][1])
    theirs = pipeline.encode_prompt(f"photo of a {found['words']}", "cpu", 1, False)[0]
    with composing.apply_personas(tiny_base, {"": persona}) as schedules:
        own = composing.encode_schedule(tiny_base, "photo of a {}", schedules, [1.0])[1.0].keys
        noise, t, _ = lora_samples.inputs(tiny_base)
        with torch.no_grad():
            drawn = tiny_base.pipeline.unet(noise, t, encoder_hidden_states=own).sample
            bare = pipeline.unet(noise, t, encoder_hidden_states=theirs).sample
    assert distance(theirs, own) < 1e-5
    assert distance(bare, drawn) < 1e-2


def test_what_dreambooth_loses_is_told(tiny_base: loading.Base, library: Library, tmp_path: Path) -> None:
    persona = keep(tiny_base, library, "dreambooth", learning_rate=1e-3)
    found = export(tmp_path, "peft")
    square = {name: float(np.square(each.astype(float)).sum()) for name, each in persona.tensors.items()}
    ones = sum(square[f"weights.{name}"] for name in found["left_out"])
    assert all(name.endswith(".bias") or "norm" in name for name in found["left_out"])
    assert found["lost"] > 0 and ones > 0
    assert any("trained biases and norms are left out" in each for each in found["warnings"])
    assert any("of the difference's square is not in the file" in each for each in found["warnings"])
    theirs = by_diffusers(tiny_base, Path(tiny_base.spec.name), Path(found["files"][0]))
    own = by_pmagic(tiny_base, persona)
    bare = lora_samples.outputs(tiny_base.pipeline, *lora_samples.inputs(tiny_base))
    assert distance(theirs[1], own[1]) < distance(bare[1], own[1])


@pytest.mark.parametrize("method", ["personamagic", "textual_inversion", "custom_personamagic"])
def test_embeddings_are_refused(tiny_base: loading.Base, library: Library, tmp_path: Path, method: str) -> None:
    keep(tiny_base, library, method)
    done = runner.invoke(app, ["export", "alice", str(tmp_path / "a.safetensors"), "--format", "peft"])
    assert (done.exit_code == 6 and "which a LoRA cannot hold" in done.stderr) or "holds nothing else" in done.stderr
    assert not (tmp_path / "a.safetensors").exists()
    assert runner.invoke(app, ["export", "alice", "--format", "onnx"]).exit_code == 2


def test_factors_have_the_least_rank_that_keeps_the_share() -> None:
    source = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(6, 6, generator=source, dtype=torch.float64))[0] for _ in range(2))
    values = torch.tensor([3.0, 2.0, 1.0, 1e-9, 0.0, 0.0], dtype=torch.float64)
    matrix = left * values @ right
    for kept, rank in [(1.0 - 1e-12, 3), (13.0 / 14 + 1e-6, 3), (13.0 / 14 - 1e-6, 2), (0.1, 1)]:
        up, down = lora_export.factors(matrix, kept)
        assert up.shape == (6, rank) and (up @ down).square().sum() >= kept * matrix.square().sum()
    up, down = lora_export.factors(torch.zeros(3, 4), 0.999)
    assert up.shape == (3, 1) and not (up @ down).any()


def test_a_word_of_the_base_needs_no_file(tiny_base: loading.Base, library: Library, tmp_path: Path) -> None:
    from dataclasses import replace

    persona = keep(tiny_base, library, "lora")
    table = tiny_base.pipeline.text_encoder.get_input_embeddings().weight
    token = tiny_base.pipeline.tokenizer("nice", add_special_tokens=False).input_ids[0]
    vector = table[token].detach().numpy()
    spec = tiny_base.spec
    assert lora_export.word_of(persona, "alice", "nice", vector, spec) == ("nice face", False)
    assert lora_export.word_of(persona, "alice", "nice", vector + 1, spec) == ("<alice> face", True)
    assert lora_export.word_of(replace(persona, word="sks cat"), "alice", "sks", None, spec) == ("sks cat", False)
    metadata = {"modelspec.trigger_phrase": "nice face"}
    file = lora_samples.write(tmp_path / "a.safetensors", lora_samples.kohya(tiny_base), metadata)
    runner.invoke(app, ["import", str(file), "--base", tiny_base.spec.name])  # the words are in the file
    assert library.load("a")[1].word == "nice face"
    (name,) = safetensors.torch.load(lora_export.word_bytes("alice", vector)).keys()
    assert name == "<alice>"
