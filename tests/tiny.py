"""Tiny random models in the layouts of the real ones: SD 1.x, SD 2.x (velocity), half-precision variant, CLIP.

Real folders in the libraries' own formats, small enough to make and load within a second or two. The fixtures at
the end are there for every test file that says `pytest_plugins = ["tiny"]`; each folder is made once per run.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import packs
import pytest
import torch
from PIL import Image

from pmagic.bases import loading, model_spec
from pmagic.engine import subject

LENGTH = 77
WIDTH = 32  # of the text encoder
SIZE = 32  # pixels of a side
PROMPTS = "a photo of the face as cowboy in snow ; one nice good bright oil painting close up cropped rendering"
WORDS = (*PROMPTS.replace(";", "").split(), "man", "woman", "dog", "with", "hat", "on", "at", "and", "rendition")


def build_base(folder: Path, *, prediction: str = "epsilon", variant: str | None = None) -> Path:
    """A diffusers folder with its observers beside it (`<folder>-clip`, ...), seeded, the same each time."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

    second = prediction == "v_prediction"  # the second generation: heads by width, linear projections, no skipped layer
    torch.manual_seed(7)
    tokenizer = build_tokenizer(folder.with_name(folder.name + "-words"))
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(
            sample_size=SIZE, block_out_channels=(8, 8, 8), norm_num_groups=4, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        ),
        text_encoder=CLIPTextModel(_text_config(tokenizer)),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=SIZE // 4, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=WIDTH, attention_head_dim=(2, 4) if second else 2, use_linear_projection=second,
        ),
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction,
            skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    if variant is not None:
        pipeline.to(torch.float16)
    pipeline.save_pretrained(folder, variant=variant)
    build_clip(folder.with_name(folder.name + "-clip"), tokenizer)
    packs.build_clipseg(folder.with_name(folder.name + "-clipseg"), tokenizer)
    observers = [f'{name} = "../{folder.name}-{name}"\n' for name in ("clip", "clipseg")]
    (folder / "pmagic.toml").write_text("[observers]\n" + "".join(observers))
    return folder


def build_tokenizer(folder: Path, size: int = 0) -> Any:
    """A CLIP tokenizer: every byte, and `WORDS` whole; filled up to `size` tokens that no text contains."""
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True)
    letters = list(_byte_letters())
    vocabulary = letters + [letter + "</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces[:2] = ["".join(pieces[:2])]
            vocabulary.append(pieces[0])
    special = ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = list(dict.fromkeys(vocabulary))
    unused = [f"<|unused{number}|>" for number in range(size - len(vocabulary) - len(special))]
    tokens = [*vocabulary, *unused, *special]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    lines = dict.fromkeys(f"{left} {right}" for left, right in merges)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "bos_token": "<|startoftext|>",
                "eos_token": "<|endoftext|>",
                "pad_token": "<|endoftext|>",
                "unk_token": "<|endoftext|>",
                "model_max_length": LENGTH,
                "tokenizer_class": "CLIPTokenizer",
            }
        )
    )
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    assert len(tokenizer) == len(tokens)
    return tokenizer


def build_clip(folder: Path, tokenizer: Any, projection: int = 24) -> Path:
    """A CLIPModel folder: pictures 16 x 16."""
    from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig

    torch.manual_seed(8)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    config = CLIPConfig(text_config=_text_config(tokenizer), vision_config=vision, projection_dim=projection)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    statistics = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics))
    return folder


def photo(seed: int = 0, size: tuple[int, int] = (40, 48)) -> Image.Image:
    source = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 256, (size[1], size[0], 3), generator=source, dtype=torch.uint8)
    return Image.fromarray(values.numpy(), "RGB")


def known(base: loading.Base, seeds: tuple[int, ...] = (0,)) -> subject.Subject:
    """Random photos to learn from. The subject is the left half of a single photo; of several, CLIPSeg finds it."""
    photos = [photo(seed) for seed in seeds]
    mask = None
    if len(photos) == 1:
        mask = Image.new("L", photos[0].size, 0)
        mask.paste(255, (0, 0, photos[0].width // 2, photos[0].height))
    return subject.encode_photos(base, photos, [f"{seed:064x}" for seed in seeds], word="face", mask=mask)


def train_step(**overrides: Any) -> dict[str, Any]:
    """Overrides of a recipe with which a tiny base learns fast."""
    short = {
        "iterations": 3,
        "learning_rate": 1e-3,
        "templates": ("a photo of a {}", "a photo of the {}"),
        "open_prompts": ("{} as a cowboy", "oil painting of {}"),
    }
    return {**short, **overrides}


def open_base(folder: Path, dtype: str = "float32") -> loading.Base:
    return loading.load(model_spec.resolve(str(folder)), device="cpu", dtype=dtype)


def open_fast(folder: Path, *, fp32_norms: bool) -> loading.Base:
    """Computing in bfloat16 on any processor. fp32_norms: as on a CPU that multiplies it, else as on a GPU."""
    base = open_base(folder)
    loading.cast_network(base.pipeline.unet, torch.bfloat16, fp32_norms=fp32_norms)
    return replace(base, compute_dtype=torch.bfloat16, fp32_norms=fp32_norms)


def hooks_of(base: loading.Base) -> list[str]:
    """Names of this package's hooks that are left on the base; the libraries have some of their own."""
    modules = [module for name in loading.MODELS for module in getattr(base.pipeline, name).modules()]
    hooks = [hook for each in modules for hook in (*each._forward_pre_hooks.values(), *each._forward_hooks.values())]
    return [hook.__qualname__ for hook in hooks if getattr(hook, "__module__", "").startswith("pmagic")]


def _text_config(tokenizer: Any) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=2 * WIDTH, projection_dim=24,
        num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip


def _byte_letters() -> Iterator[str]:
    """The printable stand-ins of byte-level BPE for the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    yield from map(chr, printable)
    yield from (chr(256 + number) for number in range(256 - len(printable)))


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders by layout: "sd1", "sd2", "fp16"."""
    root = tmp_path_factory.mktemp("tiny")
    return {
        "sd1": build_base(root / "sd1"),
        "sd2": build_base(root / "sd2", prediction="v_prediction"),
        "fp16": build_base(root / "fp16", variant="fp16"),
    }


@pytest.fixture(scope="session")
def tiny_base(tiny_folders: dict[str, Path]) -> loading.Base:
    """The SD 1.x layout in float32. A test must leave it as it found it."""
    return open_base(tiny_folders["sd1"])


@pytest.fixture(scope="session")
def faced_folder(tiny_folders: dict[str, Path]) -> Path:
    """The SD 1.x layout with a face pack that takes red blocks for faces (see packs)."""
    plain = tiny_folders["sd1"]
    folder = shutil.copytree(plain, plain.with_name("faced"))
    pack = packs.build_pack(plain.with_name("faced-faces"))
    config = folder / "pmagic.toml"
    config.write_text(config.read_text() + f'faces = "../{pack.name}"\n')
    return folder


@pytest.fixture(scope="session")
def faced_base(faced_folder: Path) -> loading.Base:
    """A base with a face pack. A test must leave it as it found it."""
    return open_base(faced_folder)


@pytest.fixture
def own_folder(tiny_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the SD 1.x folder that a test may damage."""
    for name in ("sd1-clip", "sd1-clipseg"):
        shutil.copytree(tiny_folders["sd1"].with_name(name), tmp_path / name)
    return shutil.copytree(tiny_folders["sd1"], tmp_path / "sd1")
