"""Schedulers: the samplers by name, all of them diffusers' own. torch is imported only when one is made."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from torch import Tensor

# Stable Diffusion's last timestep is 1, and its latents are not limited to [-1, 1]. If a base's configuration does not
# say so, the stock pipeline makes the same corrections, with a warning each time.
SCHEDULERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"steps_offset": 1, "clip_sample": False}),
    "dpm++": ("DPMSolverMultistepScheduler", {"steps_offset": 1}),
    # It ends at the noise of timestep 0 instead of zero noise, as diffusers did when the authors used it.
    "dpm++-sigma-min": ("DPMSolverMultistepScheduler", {"steps_offset": 1, "final_sigmas_type": "sigma_min"}),
    "unipc": ("UniPCMultistepScheduler", {"steps_offset": 1}),
    "euler": ("EulerDiscreteScheduler", {"steps_offset": 1}),
    "pndm": ("PNDMScheduler", {"steps_offset": 1, "skip_prk_steps": True}),
}


def make(name: str, config: Mapping[str, Any]) -> Any:
    """A new scheduler `name` with the noise schedule and the prediction type of a base's own scheduler `config`."""
    import diffusers

    kind, own = SCHEDULERS[name]
    scheduler = getattr(diffusers, kind).from_config(config, **own)
    set_timesteps = scheduler.set_timesteps

    def set_on_cpu(steps: int, device: Any = None, **more: Any) -> None:
        """The sampler reads the value of a timestep at every step; on a GPU, that would wait for all work before it."""
        set_timesteps(steps, **more)

    scheduler.set_timesteps = set_on_cpu
    return scheduler


class NoiseSchedule(Protocol):
    """The part of a diffusers scheduler that training uses. latents and noise: (B, C, h, w), t: (B,) timesteps."""

    config: Any
    alphas_cumprod: "Tensor"  # (1000,)

    def add_noise(self, latents: "Tensor", noise: "Tensor", t: "Tensor", /) -> "Tensor": ...

    def get_velocity(self, latents: "Tensor", noise: "Tensor", t: "Tensor", /) -> "Tensor": ...


def noise_schedule(config: Mapping[str, Any]) -> NoiseSchedule:
    """The noise schedule with which a base was trained, from the `config` of its own scheduler."""
    from diffusers import DDPMScheduler

    return cast(NoiseSchedule, DDPMScheduler.from_config(cast(Any, config)))  # its annotation also allows a pair
