"""Image encoders that adapters read: a CLIP vision model in a folder, in float32."""

# N pictures . e projection width . P patches and the class token . v width of the vision model

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from pmagic.bases import model_config
from pmagic.bases.loading import quiet_libraries
from pmagic.errors import Incompatible, WeightsMissing

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's training


@dataclass(frozen=True)
class ImageEncoder:
    """A loaded CLIPVisionModelWithProjection."""

    model: Any

    @torch.no_grad()
    def projected(self, pictures: Sequence[Image.Image]) -> Tensor:
        """The projection of each picture's central square: (N, e), not normalised."""
        return self.model(pixel_values=self._pixels(pictures)).image_embeds

    @torch.no_grad()
    def states(self, pictures: Sequence[Image.Image]) -> Tensor:
        """The states before the last layer, of each picture's central square: (N, P, v)."""
        return self._states(self._pixels(pictures))

    @torch.no_grad()
    def states_of_zeros(self) -> Tensor:
        """The states before the last layer for pixels that are all 0 after normalising: (1, P, v)."""
        side = self.model.config.image_size
        return self._states(torch.zeros(1, 3, side, side, device=self.model.device))

    def _states(self, pixels: Tensor) -> Tensor:
        return self.model(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]

    def _pixels(self, pictures: Sequence[Image.Image]) -> Tensor:
        """The central squares, normalised as CLIP's own preprocessor does: (N, 3, side, side)."""
        side = self.model.config.image_size
        squares = [_central_square(each.convert("RGB"), side) for each in pictures]
        raw = torch.stack([torch.frombuffer(bytearray(each.tobytes()), dtype=torch.uint8) for each in squares])
        pixels = raw.view(len(squares), side, side, 3).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (MEAN, STD))
        return ((pixels - mean) / std).to(self.model.device)


def widths(folder: Path) -> tuple[int, int]:
    """The widths of an encoder's projection and of its states, from its configuration: (e, v).

    Raises WeightsMissing without one, Incompatible for another configuration.
    """
    config = _config(folder)
    return config.projection_dim, config.hidden_size


def load(folder: Path, *, device: str) -> ImageEncoder:
    """Open an encoder's folder. Raises WeightsMissing or Incompatible; the message names the problem."""
    from transformers import CLIPVisionModelWithProjection

    config = _config(folder)
    try:
        with quiet_libraries():
            opened = CLIPVisionModelWithProjection.from_pretrained(
                folder,
                config=config,
                attn_implementation=model_config.ATTENTION,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
            model, report = cast(tuple[Any, Any], opened)  # a pair because of `output_loading_info`
    except (OSError, ValueError, RuntimeError) as error:
        raise Incompatible(f"the image encoder in {folder} cannot be opened: {error}", f"restore {folder}") from error
    missing = [key for key in report["missing_keys"] if not key.endswith("position_ids")]
    if missing:
        raise Incompatible(
            f"the image encoder in {folder} lacks {len(missing)} weights ({missing[0]}, ...)", f"restore {folder}"
        )
    return ImageEncoder(model.requires_grad_(False).eval().to(device))


def _config(folder: Path) -> Any:
    from transformers import CLIPVisionConfig

    if not (folder / "config.json").is_file():
        raise WeightsMissing(
            f"there is no image encoder in {folder}: it has no config.json",
            "put there the image encoder that the adapter was trained with",
        )
    return model_config.read_config(folder, CLIPVisionConfig)


def _central_square(picture: Image.Image, side: int) -> Image.Image:
    """The central square at `side` x `side` pixels, by CLIP's own rule: resized first, the long side rounded down."""
    width, height = (max(side, side * each // min(picture.size)) for each in picture.size)
    left, top = (width - side) // 2, (height - side) // 2
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + side, top + side))
