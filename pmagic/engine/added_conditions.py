"""Added conditions: what the UNet of Stable Diffusion XL reads besides the sentence; other bases have none.

These are the pooled vector of the sentence, from the second text encoder, and six sizes in pixels: height and width of
the original picture, top and left of its crop, height and width of the picture itself.

The paper has no such base. Here the pooled vector is always that of the plain sentence, in which the super-category
stands for the name. It acts on the whole picture, where a name would overrule the scene, and it is computed from the
sentence's own tokens: the second encoder pools at the first end token, and placeholders may hold one.
"""

# N prompts . P photos . B batch . p width of the pooled vector

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pmagic.bases.loading import Base
from pmagic.engine import prompts, token_batch
from pmagic.engine.subject import Subject


@dataclass(frozen=True)
class AddedConditions:
    """The added conditions of training: pooled vectors (N, p) of the prompts, and sizes (P, 6) of the photos."""

    pooled: Tensor
    sizes: Tensor

    def rows(self, prompt: Tensor, photo: Tensor) -> dict[str, Tensor]:
        """The UNet's `added_cond_kwargs` for a batch. prompt, photo: (B,) long."""
        return {"text_embeds": self.pooled[prompt], "time_ids": self.sizes[photo]}


def of_training(base: Base, subject: Subject, templates: Sequence[str]) -> AddedConditions | None:
    """The added conditions of all prompts and photos; None for a base that reads none.

    The original size is that of the photo's square crop, so that the blur of a small photo is not learned as the
    person. The photo is its own whole picture: its crop begins at (0, 0).
    """
    if not base.reads_pooled:
        return None
    texts = [prompts.substitute_names(each, {"": subject.word}) for each in templates]
    sides = subject.sides or (base.size,) * len(subject.mean)
    sizes = torch.tensor([[side, side, 0, 0, base.size, base.size] for side in sides])
    return AddedConditions(pooled_vectors(base, texts), sizes.to(base.device, base.weights_dtype))


def of_picture(base: Base, text: str, count: int) -> dict[str, Tensor] | None:
    """The UNet's `added_cond_kwargs` for `count` rows of a whole picture at the base's own size, with one text."""
    if not base.reads_pooled:
        return None
    sizes = torch.tensor(
        [[base.size, base.size, 0, 0, base.size, base.size]], device=base.device, dtype=base.weights_dtype
    )
    return {"text_embeds": pooled_vectors(base, [text]).expand(count, -1), "time_ids": sizes.expand(count, -1)}


@torch.no_grad()
def pooled_vectors(base: Base, texts: Sequence[str]) -> Tensor:
    """The pooled vector of each plain text: (N, p). Only for a base that reads them."""
    vectors = [token_batch.encode_plain(base, text).pooled for text in texts]
    return torch.cat([each for each in vectors if each is not None])
