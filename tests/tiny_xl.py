"""Tiny random models in the layout of Stable Diffusion XL: two text encoders, a pooled sentence, sizes.

The fixtures at the end are for test files that say `pytest_plugins = ["tiny", "tiny_xl"]`.
"""

import shutil
from pathlib import Path
from typing import Any

import packs
import pytest
import tiny
import torch

from pmagic.bases import loading

WIDTHS = (tiny.WIDTH, 48)  # of the two text encoders
POOLED = 24
LEARN = 'iterations = 2\nprobe_iterations = 2\ntemplates = ["a photo of a {}"]\nopen_prompts = ["{} as a cowboy"]\n'


def build_xl(folder: Path, *, prediction: str = "epsilon", variant: str | None = None) -> Path:
    """A diffusers folder with CLIP and CLIPSeg beside it, seeded, the same each time."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(9)
    tokenizer = tiny.build_tokenizer(folder.with_name(folder.name + "-words"))
    second = tiny.build_tokenizer(folder.with_name(folder.name + "-words2"), pad="!")
    pipeline = StableDiffusionXLPipeline(
        vae=AutoencoderKL(
            sample_size=tiny.SIZE, block_out_channels=(8, 8, 8), norm_num_groups=4, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
            scaling_factor=0.13025, force_upcast=True,
        ),
        text_encoder=CLIPTextModel(_text_config(tokenizer, WIDTHS[0], "quick_gelu")),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizer, WIDTHS[1], "gelu")),
        tokenizer=tokenizer,
        tokenizer_2=second,
        unet=UNet2DConditionModel(
            sample_size=tiny.SIZE // 4, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2),
            cross_attention_dim=sum(WIDTHS), attention_head_dim=(2, 4), use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=POOLED + 6 * 8,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction,
            steps_offset=1, timestep_spacing="leading",
        ),
        add_watermarker=False,
    )  # fmt: skip
    if variant is not None:
        pipeline.to(torch.float16)
    pipeline.save_pretrained(folder, variant=variant)
    tiny.build_clip(folder.with_name(folder.name + "-clip"), tokenizer)
    packs.build_clipseg(folder.with_name(folder.name + "-clipseg"), tokenizer)
    observers = [f'{name} = "../{folder.name}-{name}"\n' for name in ("clip", "clipseg")]
    (folder / "pmagic.toml").write_text("[observers]\n" + "".join(observers))
    return folder


def _text_config(tokenizer: Any, width: int, activation: str) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, projection_dim=POOLED,
        num_hidden_layers=3, num_attention_heads=2, max_position_embeddings=tiny.LENGTH, hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip


@pytest.fixture(scope="session")
def xl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_xl(tmp_path_factory.mktemp("xl") / "xl")


@pytest.fixture(scope="session")
def faced_xl(xl_folder: Path) -> Path:
    """The same with two face packs, and with short settings for the command line."""
    folder = shutil.copytree(xl_folder, xl_folder.with_name("faced-xl"))
    packs.build_pack(folder.with_name("faced-xl-faces"))
    packs.build_pack(folder.with_name("faced-xl-judge"), seed=11)
    observers = "".join(f'{name} = "../faced-xl-{name}"\n' for name in ("faces", "judge"))
    config = folder / "pmagic.toml"
    config.write_text(f"{config.read_text()}{observers}[learn]\n{LEARN}[render]\nsteps = 4\nguidance = 2.0\n")
    return folder


@pytest.fixture(scope="session")
def xl_base(xl_folder: Path) -> loading.Base:
    """In float32. A test must leave it as it found it."""
    return tiny.open_base(xl_folder)
