"""Familiarity: the error of the noise found in a photo, with known answers."""

import pytest
import torch
from PIL import Image

from pmagic.bases.loading import Base
from pmagic.engine import domain_check, randomness

pytest_plugins = ["tiny"]


@pytest.mark.parametrize(("share", "error"), [(1.0, 0.0), (0.0, 1.0), (0.5, 0.25)])
def test_the_error_is_what_is_missing_of_the_noise(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch, share: float, error: float
) -> None:
    """A UNet that finds a known share of the very noise that was added."""
    asked = []

    def finds(
        noisy: torch.Tensor, t: torch.Tensor, encoder_hidden_states: torch.Tensor, return_dict: bool
    ) -> tuple[torch.Tensor]:
        asked.append(t.tolist())
        noise = torch.randn(noisy.shape, generator=randomness.generator(0, "familiarity")).to(noisy)
        return (share * noise,)

    monkeypatch.setattr(tiny_base.pipeline.unet, "forward", finds)
    photo = Image.new("RGB", (64, 64), (120, 90, 60))
    found = domain_check.denoising_error(tiny_base, photo, "face")
    assert found == pytest.approx(error, abs=0.1 * error)  # a unit normal, up to the sample's size
    assert asked == [[domain_check.T] * domain_check.NOISES]
