"""Stable Diffusion XL's exact shape with random weights: a picture's latents, one learning step. Minutes, 11 GB."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file

from pmagic.bases import memory_estimate, model_config, model_spec
from pmagic.engine import composing, memory, rendering, training
from pmagic.engine.recipes import render_settings_for, settings_for
from pmagic.engine.subject import Subject
from pmagic.methods import personamagic

pytestmark = pytest.mark.slow

NEEDED = 11_500_000_000  # bytes


def build_sdxl(folder: Path) -> Path:
    """The shipped configurations of a single file, with half-precision weights (7 GB) and tokenizers of its size."""
    import diffusers
    import transformers

    shutil.copytree(model_spec.SINGLE_FILES / "sdxl", folder)
    block = (torch.randn(2**20, generator=torch.Generator().manual_seed(0)) * 0.02).half()
    classes = {
        "unet": diffusers.UNet2DConditionModel,
        "vae": diffusers.AutoencoderKL,
        "text_encoder": transformers.CLIPTextModel,
        "text_encoder_2": transformers.CLIPTextModelWithProjection,
    }
    for part, kind in classes.items():
        with torch.device("meta"):
            if part.startswith("text_encoder"):
                model = kind(model_config.read_config(folder / part, transformers.CLIPTextConfig))
            else:
                model = kind.from_config(model_config.read_json(folder / part / "config.json"))
        # The same numbers again and again: random ones would take minutes, and the shape is what counts.
        weights = {
            name: torch.ones(each.shape, dtype=torch.float16)
            if "norm" in name and name.endswith("weight")
            else block.repeat(math.ceil(each.numel() / len(block)))[: each.numel()].reshape(each.shape).clone()
            for name, each in model.named_parameters()
        }
        stem = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
        save_file(weights, folder / part / f"{stem}.fp16.safetensors", metadata={"format": "pt"})
    tokenizer = tiny.build_tokenizer(folder / "tokenizer", size=49408)
    tiny.build_tokenizer(folder / "tokenizer_2", size=49408, pad="!")
    tiny.build_clip(folder.with_name("clip"), tokenizer, projection=512)
    (folder / "pmagic.toml").write_text('[observers]\nclip = "../clip"\n')
    return folder


def peak() -> float:
    """Gigabytes of memory that this process has had at most, with the pages of files that it has mapped."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e9


def test_latents_of_a_picture_and_one_iteration(tmp_path: Path) -> None:
    free = memory_estimate.memory_free()
    if free is None or free < NEEDED:
        pytest.skip(f"needs {NEEDED / 1e9:.0f} GB of memory, {free} bytes are free")
    folder = build_sdxl(tmp_path / "sdxl")
    assert sum(memory_estimate.parameters_by_part(model_spec.resolve(str(folder))).values()) == 3_468_837_867
    base = tiny.open_base(folder, dtype="bfloat16")  # all of it, 7 GB; "auto" opens the UNet in float32 first
    assert base.size == 1024 and base.text_widths == (768, 1280)
    print(f"opened: {peak():.2f} GB", flush=True)
    settings = render_settings_for("paper", {}, steps=1, guidance=1.0)
    with composing.apply_personas(base, {"": "face"}) as wordings:
        read = rendering.encode_prompt(base, wordings, "a photo of {}", settings, {"": "face"})
    assert next(iter(read.rows.values())).shape == (77, 2 * 2048) and read.pooled.shape == (1, 1280)
    latents = rendering.sample(base, read, rendering.initial_noise(base, [0], 1024, 1024), settings)
    assert latents.shape == (1, 4, 128, 128) and latents.isfinite().all()
    print(f"drawn: {peak():.2f} GB", flush=True)
    subject = Subject(
        word="face",
        mean=torch.randn(1, 4, 128, 128),
        std=torch.zeros(1, 4, 128, 128),
        mask=torch.ones(1, 1, 128, 128),
        image_embedding=torch.randn(1, 512),
        hashes=("0" * 64,),
        sides=(1024,),
    )
    reports: list[training.StepReport] = []
    learn = settings_for("reference", {}, iterations=1, batch=1)
    with memory.gradient_checkpointing(base.pipeline):
        persona = personamagic.learn(base, subject, learn, reports.append)
    assert np.isfinite(reports[0].loss)
    assert persona.tensors["learner.dynamic_out.weight"].shape == (4 * 2048, 128)
    print(f"learned: {peak():.2f} GB", flush=True)
