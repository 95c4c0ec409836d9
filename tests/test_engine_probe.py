"""The probe: known overlaps, known curves, known bounds; and on a base it finds the same stages twice."""

import dataclasses

import pytest
import tiny
import torch

from pmagic.bases import loading
from pmagic.engine import probe
from pmagic.engine.probe import GRID, binarize, isotonic, outline_subject, overlap, read_bounds
from pmagic.engine.recipes import LearnSettings, settings_for
from pmagic.methods import personamagic
from pmagic.persona import REFERENCE_BOUNDS, StageBounds

pytest_plugins = ["tiny"]


def short(**overrides: object) -> LearnSettings:
    return settings_for(
        "paper", {}, **{**tiny.train_step(losses={"masked_mse": 1.0}), "probe_iterations": 2, **overrides}
    )


def reading(iou_low: float, iou_high: float, **more: object) -> LearnSettings:
    return settings_for("paper", {}, iou_low=iou_low, iou_high=iou_high, **more)


def falling(iou_at: dict[int, float]) -> probe.Curve:
    return tuple(sorted(iou_at.items(), reverse=True))


def drawn(top: int, left: int, height: int, width: int) -> torch.Tensor:
    found = torch.zeros(1, 8, 8, dtype=torch.bool)
    found[:, top : top + height, left : left + width] = True
    return found


def test_overlap_of_drawn_masks() -> None:
    square = drawn(0, 0, 4, 4)
    assert overlap(square, square).tolist() == [1.0]
    assert overlap(square, drawn(4, 4, 4, 4)).tolist() == [0.0]
    assert overlap(square, drawn(0, 2, 4, 4)).tolist() == pytest.approx([8 / 24])
    both = torch.cat([square, drawn(0, 2, 4, 4)])
    assert overlap(both, torch.cat([square, square])).tolist() == pytest.approx([1.0, 8 / 24])


def test_a_map_becomes_its_cells_above_its_mean() -> None:
    bright = torch.tensor([[[0.0, 0.1], [0.2, 0.9]], [[5.0, 5.0], [1.0, 1.0]]])
    found = binarize(bright)
    assert found.tolist() == [[[False, False], [False, True]], [[True, True], [False, False]]]
    assert torch.equal(found, binarize(7 + 0.001 * bright))  # whatever its contrast
    mask = drawn(2, 2, 3, 3)
    assert overlap(binarize(mask.float()), mask).tolist() == [1.0]


def test_a_soft_mask_is_cut_at_half_of_its_height() -> None:
    soft = torch.tensor([[[0.0, 0.1, 0.2], [0.19, 0.21, 0.4], [0.4, 0.3, 0.0]]])
    assert outline_subject(soft).tolist() == [[[False, False, False], [False, True, True], [True, True, False]]]


def test_the_curve_is_made_to_rise_as_t_falls() -> None:
    assert isotonic(falling({900: 0.1, 600: 0.3, 300: 0.2, 0: 0.6})) == pytest.approx([0.1, 0.25, 0.25, 0.6])


STRAIGHT = falling({t: 1 - t / 1000 for t in GRID})


@pytest.mark.parametrize(
    ("levels", "bounds"),
    [((0.7, 0.8), (200, 300)), ((0.5, 0.9), (100, 500)), ((0.01, 0.8), (200, 1000)), ((0.6, 1.0), (0, 400))],
)
def test_bounds_are_where_the_curve_crosses_the_thresholds(
    levels: tuple[float, float], bounds: tuple[int, int]
) -> None:
    assert read_bounds(STRAIGHT, reading(*levels)) == (StageBounds(*bounds), "")


def test_a_curve_with_a_dent_is_read_after_smoothing() -> None:
    dented = falling({975: 0.2, 725: 0.75, 475: 0.65, 225: 0.9})  # 0.7, 0.7 once it is monotone
    found, why = read_bounds(dented, reading(0.6, 0.8))
    assert (found, why) == (StageBounds(350, 775), "")


@pytest.mark.parametrize(
    ("ious", "why"),
    [
        ((0.1, 0.5), "never reaches 0.7, it ends at 0.50"),
        ((0.1, 0.75), "never reaches 0.8, it ends at 0.75"),
        ((0.85, 0.9), "above 0.8 from the start, at 0.85"),
        ((0.0, 10.0), "its own dynamic stage, 899:908, is narrower than 100 timesteps"),
    ],
)
def test_a_curve_that_will_not_do_falls_back_and_says_why(ious: tuple[float, float], why: str) -> None:
    bounds, told = read_bounds(falling({975: ious[0], 25: ious[1]}), reading(0.7, 0.8))
    assert bounds == REFERENCE_BOUNDS
    assert why in told


def test_how_narrow_a_stage_may_be_and_what_stands_instead_are_settings() -> None:
    """A curve that reaches the threshold at t = 500 has too narrow a stage, one that begins above it is left whole."""
    asked = reading(0.65, 1.0, narrowest=700, fallback=(0, 700))
    late, early = falling({975: 0.175, 25: 1.125}), falling({975: 0.7, 25: 0.9})
    bounds, why = read_bounds(late, asked)
    assert (bounds, why) == (StageBounds(0, 700), "its own dynamic stage, 0:500, is narrower than 700 timesteps")
    assert read_bounds(late, reading(0.65, 1.0)) == (StageBounds(0, 500), "")
    assert read_bounds(early, asked) == (StageBounds(0, 1000), "")
    low = falling({975: 0.3, 25: 0.5})
    assert read_bounds(low, asked)[0] == StageBounds(0, 700)
    assert read_bounds(low, reading(0.65, 1.0))[0] == REFERENCE_BOUNDS


def test_on_a_base_it_finds_the_same_twice_and_leaves_nothing(tiny_base: loading.Base) -> None:
    known = tiny.known(tiny_base)
    before = loading.weights_hash(tiny_base.pipeline)
    told: list[tuple[int, int]] = []
    first = probe.probe(tiny_base, known, short(), lambda *done: told.append(done))
    again = probe.probe(tiny_base, known, short())
    assert told == [(k, 2 + len(GRID)) for k in range(1, 3 + len(GRID))]
    assert [t for t, _ in first.curve] == list(GRID)
    assert all(0 <= iou <= 1 for _, iou in first.curve)
    assert first.maps.shape == (len(GRID), 8, 8) and first.maps.min() > 0 and first.maps.max() < 1
    assert first.mask.tolist() == [[True] * 4 + [False] * 4] * 8
    assert first.curve == again.curve and torch.equal(first.maps, again.maps)
    assert probe.probe(tiny_base, known, short(seed=1)).curve != first.curve
    assert loading.weights_hash(tiny_base.pipeline) == before
    assert tiny.hooks_of(tiny_base) == []


def test_several_photos_share_the_noises(tiny_base: loading.Base) -> None:
    known = tiny.known(tiny_base, (0, 1, 2, 3, 4))
    found = probe.probe(tiny_base, known, short())
    assert len(found.curve) == len(GRID)


def test_learning_probes_where_the_bounds_are_open(tiny_base: loading.Base, monkeypatch: pytest.MonkeyPatch) -> None:
    known = tiny.known(tiny_base)
    found = probe.Probe(StageBounds(250, 650), STRAIGHT, torch.zeros(1, 8, 8), torch.zeros(8, 8, dtype=torch.bool))
    monkeypatch.setattr(probe, "probe", lambda base, subject, settings: found)
    persona = personamagic.learn(tiny_base, known, short())
    assert persona.bounds == StageBounds(250, 650)
    assert persona.curve == STRAIGHT
    assert persona.settings["stages"] == "found by the probe"
    assert persona.settings["bounds"] == [250, 650]
    given = personamagic.learn(tiny_base, known, short(bounds=(250, 650)))
    assert given.curve == () and "stages" not in given.settings
    for name, array in persona.tensors.items():
        assert (given.tensors[name] == array).all()
    fallen = dataclasses.replace(found, fallback_reason="it is flat")
    monkeypatch.setattr(probe, "probe", lambda base, subject, settings: fallen)
    assert personamagic.learn(tiny_base, known, short()).settings["stages"] == "fell back: it is flat"
