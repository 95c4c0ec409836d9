"""The measuring of stages and equilibrium: known curves, known maps."""

import pytest
import torch

from pmagic.engine import probe
from pmagic.experiments import stages

MASK = torch.zeros(1, 8, 8, dtype=torch.bool)
MASK[:, 2:6, 2:6] = True


@pytest.mark.parametrize("way", stages.BINARISATIONS)
def test_each_binarisation_finds_a_mask_in_a_map_that_shows_it(way: str) -> None:
    map_ = 0.01 + 0.02 * MASK + 1e-6 * torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(stages.BINARISATIONS[way](map_, MASK), MASK)
    inverted = stages.BINARISATIONS[way](0.1 - map_, MASK)
    assert probe.overlap(inverted, MASK).item() == 0


def test_how_surely_a_curve_rises() -> None:
    assert stages.rise(((900, 0.1), (500, 0.4), (100, 0.5))) == pytest.approx(1)
    assert stages.rise(((900, 0.5), (500, 0.4), (100, 0.1))) == pytest.approx(-1)
    assert stages.rise(((900, 0.1), (700, 0.4), (500, 0.3), (100, 0.5))) == pytest.approx(0.8)


def test_no_training_person_is_measured_and_no_measured_one_trained() -> None:
    from pmagic.world.people import HELD_OUT

    assert stages.FIRST["held out"] >= HELD_OUT > stages.FIRST["training"]
