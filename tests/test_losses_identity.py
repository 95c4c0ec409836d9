"""The identity loss: its weight at known t, the clean latents of an exact prediction, and known distances."""

import pytest
import torch
from diffusers import DDPMScheduler
from test_losses_shelf import output

from pmagic.losses import identity


def test_the_weight_falls_from_one_to_nothing() -> None:
    found = identity.weight(torch.tensor([0, 500, 1000])).tolist()
    assert found == pytest.approx([1.0, 0.5**0.5, 0.0], abs=1e-12)


@pytest.mark.parametrize("velocity", [False, True])
def test_a_right_prediction_gives_the_clean_latents_back(velocity: bool) -> None:
    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    source = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 6, 6, generator=source, dtype=torch.float64) for _ in range(2))
    t = torch.tensor([0, 500, 999])
    right = schedule.get_velocity(latents, noise, t) if velocity else noise
    given = output(
        t=t,
        noisy=schedule.add_noise(latents, noise, t),
        prediction=right,
        signal=schedule.alphas_cumprod[t],
        velocity=velocity,
    )
    torch.testing.assert_close(identity.clean(given), latents, atol=1e-4, rtol=1e-4)


def test_it_is_the_weighted_distance_of_the_faces() -> None:
    given = output(t=torch.tensor([0, 500, 500]), identity_distance=lambda clean: torch.tensor([0.0, 1.0, 2.0]))
    half = 0.5**0.5
    assert identity.loss(given).tolist() == pytest.approx([0.0, half, 2 * half], abs=1e-6)
