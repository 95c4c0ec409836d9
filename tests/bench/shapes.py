"""Shapes: the models that are timed. Those with random weights are built in Stable Diffusion's layout in a folder."""

from collections.abc import Sequence
from pathlib import Path

import tiny
import torch
from PIL import Image

import pmagic.mini
from pmagic.bases import loading, model_spec
from pmagic.bases.loading import Base
from pmagic.engine import subject
from pmagic.engine.face_selection import SelectedFace
from pmagic.engine.subject import Subject

SHAPES = ("mini", "scaled", "sd14")
MINIATURE = Path(pmagic.mini.__file__).parent
CROSS = ("CrossAttnDownBlock2D",) * 3


def opened(
    shape: str, folder: Path, device: str = "auto", dtype: str = "auto", *, face: bool = False
) -> tuple[Base, Subject, Image.Image]:
    """The base, and a photo encoded for it. folder: where random weights are built, unless they are already there.

    face: use a drawn portrait, whose face the miniature's own pack finds, instead of a photo without a face.
    """
    where = "mini" if shape == "mini" else str(built(shape, folder / shape))
    base = loading.load(model_spec.resolve(where), device=device, dtype=dtype)
    if face:
        return base, *portrayed(base)
    photo = tiny.photo(0, (base.size, base.size))
    return base, _observed(base, photo, known=()), photo


def portrayed(base: Base, share: float = 1.0) -> tuple[Subject, Image.Image]:
    """A drawn portrait encoded for the base: `share` of the picture's width, in its middle, with grey around it."""
    side = round(base.size * share)
    portrait = Image.open(MINIATURE / "portraits" / "alice.png").convert("RGB").resize((side, side))
    photo = Image.new("RGB", (base.size, base.size), "grey")
    photo.paste(portrait, ((base.size - side) // 2,) * 2)
    return _observed(base, photo, known=None), photo


def _observed(base: Base, photo: Image.Image, known: Sequence[SelectedFace] | None) -> Subject:
    everywhere = Image.new("L", photo.size, 255)
    return subject.encode_photos(base, [photo], ["0" * 64], word="face", mask=everywhere, known=known)


def built(shape: str, folder: Path) -> Path:
    """Build the diffusers folder with half-precision files, unless it exists."""
    if (folder / "pmagic.toml").exists():
        return folder
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    whole = shape == "sd14"
    width, side, groups = (768, 64, 32) if whole else (160, 32, 16)
    torch.manual_seed(0)
    tokenizer = tiny.build_tokenizer(folder.with_name(f"{shape}-words"), size=49408 if whole else 0)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(
            sample_size=side * 8, block_out_channels=(128, 256, 512, 512) if whole else (32, 64, 96, 96),
            layers_per_block=2, latent_channels=4, norm_num_groups=groups,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=12,
                num_attention_heads=12 if whole else 5, max_position_embeddings=77, projection_dim=width,
                bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        ),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=side, block_out_channels=(320, 640, 1280, 1280) if whole else (64, 128, 256, 256),
            layers_per_block=2, cross_attention_dim=width, attention_head_dim=8, norm_num_groups=groups,
            down_block_types=(*CROSS, "DownBlock2D"),
            up_block_types=("UpBlock2D", *(name.replace("Down", "Up") for name in CROSS)),
        ),
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1,
            set_alpha_to_one=False,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.to(torch.float16)
    pipeline.save_pretrained(folder, variant="fp16")
    tiny.build_clip(folder.with_name(f"{shape}-clip"), tokenizer, projection=512)
    faces = MINIATURE / "weights" / "faces_a"
    (folder / "pmagic.toml").write_text(f'[observers]\nclip = "../{shape}-clip"\nfaces = "{faces}"\n')
    return folder
