"""The networks of the miniature's base: text encoder, UNet, and a network for name embeddings in training."""

# B batch . S text positions . w text width . V traits . N names a caption . n embeddings of a name

from typing import Any, cast

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pmagic.engine.schedulers import NoiseSchedule
from pmagic.mini import vocabulary
from pmagic.mini.training import CPU, in_memory_order, uses_bfloat16
from pmagic.world.people import person, trait_vector

WIDTH = 160  # of the text encoder
TOKEN_LENGTH = 0.5  # the norm of every token embedding: with equal norms, a learned token can replace any other
NAME_TOKENS = 4  # embeddings per name, as many as the mapper's


def text_network(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=4 * WIDTH, projection_dim=WIDTH,
            num_hidden_layers=3, num_attention_heads=5, max_position_embeddings=vocabulary.LENGTH,
            bos_token_id=cast(int, tokenizer.bos_token_id), eos_token_id=cast(int, tokenizer.eos_token_id),
            pad_token_id=cast(int, tokenizer.pad_token_id),
        )
    )  # fmt: skip


def noise_network(cells: int = 16) -> UNet2DConditionModel:
    """cells: the side of its latents."""
    return UNet2DConditionModel(
        sample_size=cells, in_channels=4, out_channels=4, block_out_channels=(64, 128, 128), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 3, up_block_types=("CrossAttnUpBlock2D",) * 3,
        attention_head_dim=cast(Any, (2, 4, 4)),  # the number of heads, as Stable Diffusion 1.x writes it
        norm_num_groups=16, cross_attention_dim=WIDTH,
    )  # fmt: skip


def scheduler() -> DDPMScheduler:
    """Stable Diffusion 1.x's scheduler: 1000 steps, scaled_linear, epsilon."""
    return DDPMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        clip_sample=False, steps_offset=1,
    )  # fmt: skip


def noise_schedule() -> NoiseSchedule:
    """The same schedule, as training uses it to add noise to latents."""
    return cast(NoiseSchedule, scheduler())


class Names(nn.Module):
    """Name embeddings of a person: traits (B, N, V) to N * n token embeddings (B, N * n, w) around the plain word's."""

    def __init__(self, traits: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(traits, 256), nn.LayerNorm(256), nn.SiLU(),
            nn.Linear(256, 256), nn.LayerNorm(256), nn.SiLU(), nn.Linear(256, NAME_TOKENS * WIDTH),
        )  # fmt: skip

    def forward(self, traits: Tensor, word: Tensor, noise: Tensor) -> Tensor:
        """word (w,), noise (B, N * n, w) in units of an embedding's length; all embeddings get norm `TOKEN_LENGTH`."""
        said = self.network(traits).view(noise.shape)
        said = F.normalize(said + F.normalize(word, dim=0), dim=-1) + noise
        return F.normalize(said, dim=-1) * TOKEN_LENGTH


class Networks(nn.Module):
    """All trained networks as one module, so that one optimizer and one weight average cover them."""

    def __init__(self, tokenizer: CLIPTokenizer, place: torch.device = CPU, cells: int = 16) -> None:
        super().__init__()
        self.text = text_network(tokenizer)
        self.unet = noise_network(cells)
        self.names = Names(len(trait_vector(person(0))))
        self.word = cast(int, tokenizer.convert_tokens_to_ids("face</w>"))
        if place == CPU and uses_bfloat16():
            # On a CPU in bfloat16 the fused attention's backward pass is a third of the step; the plain one is cheap.
            self.text.set_attn_implementation("eager")
            self.unet.set_attn_processor(AttnProcessor())
        else:
            in_memory_order(self.unet, torch.channels_last)  # in bfloat16 the default order is faster at this width
        self.equalise()
        self.to(place)

    @property
    def _embeddings(self) -> nn.Embedding:
        return cast(nn.Embedding, self.text.get_input_embeddings())

    @torch.no_grad()
    def equalise(self) -> None:
        """Scale every token embedding to norm `TOKEN_LENGTH`."""
        table = self._embeddings.weight
        table.copy_(F.normalize(table, dim=-1) * TOKEN_LENGTH)

    def say(self, ids: Tensor, placeholder_index: Tensor, traits: Tensor, noise: Tensor) -> Tensor:
        """Text states (B, S, w) of ids (B, S). Where placeholder_index (B, S) is not -1, it is that name embedding."""
        table = self._embeddings
        names = self.names(traits, table.weight[self.word], noise)
        chosen = names.gather(1, placeholder_index.clamp(min=0).unsqueeze(-1).expand(-1, -1, WIDTH))
        hook = lambda module, given, words: torch.where((placeholder_index >= 0).unsqueeze(-1), chosen, words)  # noqa: E731
        handle = table.register_forward_hook(hook)
        try:
            return self.text(ids).last_hidden_state
        finally:
            handle.remove()
