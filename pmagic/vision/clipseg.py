"""CLIPSeg: a mask of the region of a picture that a word describes."""

# N phrasings . S side of the model's square input . H, W height and width of the picture

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pmagic.bases import model_config, model_spec
from pmagic.bases.loading import quiet_libraries
from pmagic.errors import Incompatible, WeightsMissing

PHRASINGS = ("{}", "a {}", "the {}", "a photo of a {}")


@dataclass(frozen=True)
class ClipSeg:
    """A loaded CLIPSegForImageSegmentation with its pixel statistics."""

    model: Any  # transformers.CLIPSegForImageSegmentation
    tokenizer: Any
    size: int  # S
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]

    @torch.no_grad()
    def mask(self, picture: Image.Image, word: str) -> Tensor:
        """The probability of the word at each pixel, averaged over PHRASINGS: (H, W) float32, range [0, 1]."""
        ids = self.tokenizer([text.format(word) for text in PHRASINGS], padding=True, return_tensors="pt")
        pixels = self._normalise(picture.convert("RGB")).expand(len(PHRASINGS), -1, -1, -1)
        logits = self.model(**ids.to(self.model.device), pixel_values=pixels).logits  # (N, S, S)
        probable = logits.float().sigmoid().mean(dim=0)[None, None]
        size = (picture.height, picture.width)
        return F.interpolate(probable, size=size, mode="bilinear", antialias=True)[0, 0].cpu()

    def _normalise(self, picture: Image.Image) -> Tensor:
        """The whole picture resized to the model's square and normalised with its statistics: (1, 3, S, S)."""
        square = picture.resize((self.size, self.size), Image.Resampling.BICUBIC)
        raw = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8).view(1, self.size, self.size, 3)
        mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (self.image_mean, self.image_std))
        return ((raw.permute(0, 3, 1, 2).float() / 255 - mean) / std).to(self.model.device)


def load(folder: Path, *, device: torch.device | str = "cpu") -> ClipSeg:
    """Load a CLIPSeg folder in float32. Raises WeightsMissing or Incompatible; the message names the problem."""
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPTokenizer

    if not (folder / "config.json").is_file():
        raise WeightsMissing(f"there is no CLIPSeg in {folder}", model_spec.suggest_restore(folder))
    try:
        with quiet_libraries():
            opened = CLIPSegForImageSegmentation.from_pretrained(
                folder,
                config=model_config.read_config(folder, CLIPSegConfig),
                attn_implementation=model_config.ATTENTION,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
            model, report = cast(tuple[Any, Any], opened)  # a pair because of `output_loading_info`
    except (OSError, ValueError) as error:
        raise WeightsMissing(
            f"the CLIPSeg in {folder} cannot be opened: {error}", model_spec.suggest_restore(folder)
        ) from error
    if report["missing_keys"]:
        raise Incompatible(
            f"the CLIPSeg in {folder} lacks {len(report['missing_keys'])} weights", model_spec.suggest_restore(folder)
        )
    try:
        with quiet_libraries():
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        statistics = model_config.read_json(folder / "preprocessor_config.json")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise Incompatible(
            f"the CLIPSeg in {folder} is damaged: {error}", model_spec.suggest_restore(folder)
        ) from error
    if len(tokenizer) < model.config.text_config.vocab_size:
        raise Incompatible(f"the CLIPSeg in {folder} holds no usable tokenizer", model_spec.suggest_restore(folder))
    size = statistics["size"]
    return ClipSeg(
        model=model.requires_grad_(False).eval().to(device),
        tokenizer=tokenizer,
        size=size["height"] if isinstance(size, dict) else size,
        image_mean=tuple(statistics["image_mean"]),
        image_std=tuple(statistics["image_std"]),
    )
