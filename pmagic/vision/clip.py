"""CLIP: the image embedding that the mapper reads, and how well a picture fits a text."""

# N pictures . e projection width

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from pmagic.bases import model_config, model_spec
from pmagic.bases.loading import quiet_libraries
from pmagic.errors import Incompatible, WeightsMissing

PREFIX = "A photo depicts "  # Hessel et al. 2021
WEIGHT = 2.5


@dataclass(frozen=True)
class Clip:
    """A loaded CLIPModel with its pixel statistics."""

    model: Any  # transformers.CLIPModel
    tokenizer: Any
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]

    @property
    def size(self) -> int:
        """The side of the square input picture, in pixels."""
        return self.model.config.vision_config.image_size

    @torch.no_grad()
    def image_embedding(self, pictures: Sequence[Image.Image]) -> Tensor:
        """The projection of each whole picture, resized (not cropped) to the model's square: (N, e), not normalised."""
        square = (self.size, self.size)
        pixels = [picture.convert("RGB").resize(square, Image.Resampling.BICUBIC) for picture in pictures]
        pooled = self.model.vision_model(pixel_values=self._normalise(pixels)).pooler_output
        return self.model.visual_projection(pooled)

    @torch.no_grad()
    def cropped_embedding(self, pictures: Sequence[Image.Image]) -> Tensor:
        """The projection of each picture's centre square, its short side resized as in CLIP's training: (N, e)."""
        pixels = self._normalise([_short_side(picture.convert("RGB"), self.size) for picture in pictures])
        return self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)

    @torch.no_grad()
    def text_embedding(self, texts: Sequence[str]) -> Tensor:
        """The projection of each text with Hessel's prefix, truncated to the model's maximum length: (N, e)."""
        limit = self.model.config.text_config.max_position_embeddings
        ids = self.tokenizer(
            [PREFIX + text for text in texts], padding=True, truncation=True, max_length=limit, return_tensors="pt"
        ).to(self.model.device)
        return self.model.text_projection(self.model.text_model(**ids).pooler_output)

    def _normalise(self, pictures: Sequence[Image.Image]) -> Tensor:
        """The pixels, normalised with the model's statistics: (N, 3, size, size)."""
        raw = torch.stack([torch.frombuffer(bytearray(p.tobytes()), dtype=torch.uint8) for p in pictures])
        pixels = raw.view(len(pictures), self.size, self.size, 3).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (self.image_mean, self.image_std))
        return ((pixels - mean) / std).to(self.model.device, self.model.dtype)


def load(folder: Path, *, device: str = "cpu") -> Clip:
    """Load a CLIP folder in float32. Raises WeightsMissing or Incompatible; the message names the problem."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    if not (folder / "config.json").is_file():
        raise WeightsMissing(f"there is no CLIP in {folder}", model_spec.suggest_restore(folder))
    try:
        with quiet_libraries():
            opened = CLIPModel.from_pretrained(
                folder,
                config=model_config.read_config(folder, CLIPConfig),
                attn_implementation=model_config.ATTENTION,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
            model, report = cast(tuple[Any, Any], opened)  # a pair because of `output_loading_info`
    except (OSError, ValueError) as error:
        raise WeightsMissing(
            f"the CLIP in {folder} cannot be opened: {error}", model_spec.suggest_restore(folder)
        ) from error
    if report["missing_keys"]:
        raise Incompatible(
            f"the CLIP in {folder} lacks {len(report['missing_keys'])} weights", model_spec.suggest_restore(folder)
        )
    try:
        with quiet_libraries():
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        statistics = model_config.read_json(folder / "preprocessor_config.json")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise Incompatible(f"the CLIP in {folder} is damaged: {error}", model_spec.suggest_restore(folder)) from error
    if len(tokenizer) < model.config.text_config.vocab_size:
        raise Incompatible(f"the CLIP in {folder} holds no usable tokenizer", model_spec.suggest_restore(folder))
    return Clip(
        model=model.requires_grad_(False).eval().to(device),
        tokenizer=tokenizer,
        image_mean=tuple(statistics["image_mean"]),
        image_std=tuple(statistics["image_std"]),
    )


def _short_side(picture: Image.Image, size: int) -> Image.Image:
    scale = size / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + size, top + size))
