"""Schedulers: the samplers that can be asked for by name, all of them diffusers' own. No torch before one is made."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from torch import Tensor

# Stable Diffusion's last timestep is 1 and its latents are not confined to [-1, 1]; a base whose configuration leaves
# that open would be corrected by the stock pipeline as well, with a warning each time.
SCHEDULERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"steps_offset": 1, "clip_sample": False}),
    "dpm++": ("DPMSolverMultistepScheduler", {"steps_offset": 1}),
    # Ends at the noise of the first timestep instead of at none, as diffusers did when the authors drew with it.
    "dpm++-sigma-min": ("DPMSolverMultistepScheduler", {"steps_offset": 1, "final_sigmas_type": "sigma_min"}),
    "unipc": ("UniPCMultistepScheduler", {"steps_offset": 1}),
    "euler": ("EulerDiscreteScheduler", {"steps_offset": 1}),
    "pndm": ("PNDMScheduler", {"steps_offset": 1, "skip_prk_steps": True}),
}


def make(name: str, config: Mapping[str, Any]) -> Any:
    """A fresh scheduler `name` on the noise schedule and the prediction type of a base's own scheduler `config`."""
    import diffusers

    kind, own = SCHEDULERS[name]
    return getattr(diffusers, kind).from_config(config, **own)


class NoiseSchedule(Protocol):
    """What learning takes of a diffusers scheduler. latents and noise: (B, C, h, w), t: (B,) training timesteps."""

    config: Any
    alphas_cumprod: "Tensor"  # (1000,)

    def add_noise(self, latents: "Tensor", noise: "Tensor", t: "Tensor", /) -> "Tensor": ...

    def get_velocity(self, latents: "Tensor", noise: "Tensor", t: "Tensor", /) -> "Tensor": ...


def noise_schedule(config: Mapping[str, Any]) -> NoiseSchedule:
    """The noise that a base was trained with, of its own scheduler's `config`."""
    from diffusers import DDPMScheduler

    return cast(NoiseSchedule, DDPMScheduler.from_config(cast(Any, config)))  # annotated as if it might return a pair
