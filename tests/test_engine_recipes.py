"""Recipes: the reference's values, and who may override whom."""

from dataclasses import replace

import pytest

from pmagic.engine.recipes import REFERENCE_LOSSES, REFERENCE_NEGATIVE, LearnSettings, render_settings_for, settings_for
from pmagic.engine.stages import dynamic_sources
from pmagic.errors import UsageError
from pmagic.methods import textual_inversion
from pmagic.persona import StageBounds


def test_the_reference_is_the_references() -> None:
    found = settings_for("reference", {})
    assert (found.iterations, found.batch, found.learning_rate, found.tokens) == (1000, 2, 1e-4, 4)
    assert (found.betas, found.weight_decay, found.epsilon) == ((0.9, 0.999), 0.01, 1e-8)
    assert found.bounds == StageBounds(400, 800)
    assert dict(found.losses) == {"masked_mse": 1.0, "tandem_equilibrium": 0.001}
    drawn = render_settings_for("reference", {})
    assert (drawn.scheduler, drawn.steps, drawn.guidance, drawn.negative) == (
        "dpm++-sigma-min", 50, 8.0, REFERENCE_NEGATIVE,
    )  # fmt: skip


def test_the_base_overrides_the_recipe_and_the_person_both() -> None:
    defaults = {"learn": {"learning_rate": 1e-3, "iterations": 300}, "render": {"guidance": 4.0, "size": [64, 64]}}
    found = settings_for("reference", defaults, iterations=7, seed=None)
    assert (found.learning_rate, found.iterations, found.seed) == (1e-3, 7, 0)
    drawn = render_settings_for("reference", defaults, guidance=2.0)
    assert (drawn.guidance, drawn.size, drawn.steps) == (2.0, (64, 64), 50)


def test_a_base_may_want_something_of_one_recipe_alone() -> None:
    wanted = {"iterations": 300, "paper": {"iterations": 200, "losses": {"masked_mse": 1.0, "identity": 0.1}}}
    paper, reference = (settings_for(recipe, {"learn": wanted}) for recipe in ("paper", "reference"))
    assert (paper.iterations, dict(paper.losses)) == (200, {"masked_mse": 1.0, "identity": 0.1})
    assert (reference.iterations, dict(reference.losses)) == (300, dict(REFERENCE_LOSSES))
    inversion = textual_inversion.settings_for("paper", {"learn": wanted})
    assert (inversion.iterations, dict(inversion.losses)) == (200, {"masked_mse": 1.0})


def test_tuned_is_the_papers_until_a_base_says_more() -> None:
    """A base's values for `paper` also apply to `tuned`; its values for `tuned` apply to that alone."""
    paper, tuned = (settings_for(recipe, {}) for recipe in ("paper", "tuned"))
    assert replace(tuned, recipe="paper") == paper
    assert render_settings_for("tuned", {}) == render_settings_for("paper", {})
    wanted = {"paper": {"losses": {"masked_mse": 1.0}}, "tuned": {"narrowest": 600, "fallback": [0, 600]}}
    paper, tuned = (settings_for(recipe, {"learn": wanted}) for recipe in ("paper", "tuned"))
    assert (paper.narrowest, paper.fallback) == (100, StageBounds(400, 800))
    assert (tuned.narrowest, tuned.fallback, dict(tuned.losses)) == (600, StageBounds(0, 600), {"masked_mse": 1.0})
    assert tuned.as_table()["fallback"] == [0, 600]
    with pytest.raises(UsageError, match="narrowest must be at least 1"):
        settings_for("tuned", {}, narrowest=0)


@pytest.mark.parametrize(
    "learn", [{"paper": 3}, {"iterations": "x"}, {"losses": 3}, {"bounds": 3}, {"kind": [1]}, {"open_prompts": 3}]
)
def test_a_base_that_wants_what_cannot_be_is_told(learn: dict) -> None:
    with pytest.raises(UsageError, match=r"\[learn\] of the base's pmagic.toml is of the wrong type"):
        settings_for("paper", {"learn": learn})
    with pytest.raises(UsageError, match=r"\[render\] of the base's pmagic.toml is of the wrong type"):
        render_settings_for("paper", {"render": {"steps": "x"}})


def test_the_kind_decides_the_templates_unless_they_are_given() -> None:
    base = {"learn": {"templates": ["drawing of {}"]}}
    style = "the painting in the style of {}"
    assert settings_for("reference", base).templates == ("drawing of {}",)
    assert style in settings_for("reference", {"learn": {"kind": "style"}}).templates
    assert style in settings_for("reference", base, kind="style").templates
    assert settings_for("reference", base, kind="style", templates=("my {}",)).templates == ("my {}",)


def test_the_paper_is_the_papers() -> None:
    found = settings_for("paper", {})
    assert (found.iterations, found.batch, found.learning_rate, found.weight_decay) == (1000, 2, 5e-5, 0.01)
    assert found.bounds is None and (found.iou_low, found.iou_high) == (0.7, 0.8)
    assert set(found.losses) == {"masked_mse", "tandem_equilibrium", "identity"}
    assert len(set(found.open_prompts)) == 40
    drawn = render_settings_for("paper", {})
    assert (drawn.scheduler, drawn.steps, drawn.guidance, drawn.negative) == ("ddim", 50, 8.0, "")


def test_bounds_that_are_given_leave_nothing_to_probe() -> None:
    assert settings_for("paper", {}, bounds=(300, 600)).bounds == StageBounds(300, 600)


def test_a_kind_has_only_what_it_can_have() -> None:
    thing, style = (settings_for("paper", {}, kind=kind) for kind in ("object", "style"))
    assert set(thing.losses) == set(style.losses) == {"masked_mse", "tandem_equilibrium"}
    assert thing.bounds is None
    assert style.bounds == StageBounds(400, 800)  # a style has no place in the picture, so there is nothing to probe


def test_unknown_recipes_are_told() -> None:
    for ask in (settings_for, render_settings_for):
        with pytest.raises(UsageError, match="no recipe 'mine'"):
            ask("mine", {})


def test_a_table_holds_plain_values_only() -> None:
    assert settings_for("paper", {}).as_table()["bounds"] == []
    table = LearnSettings(recipe="reference").as_table()
    assert table["bounds"] == [400, 800]
    assert table["losses"] == {"masked_mse": 1.0, "tandem_equilibrium": 0.001}

    def plain(value: object) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, str) and plain(each) for key, each in value.items())
        return all(map(plain, value)) if isinstance(value, list) else isinstance(value, str | int | float)

    assert plain(table)


def test_sources_of_a_falling_schedule() -> None:
    bounds = StageBounds(400, 800)
    assert dynamic_sources([999, 800, 799, 400, 399, 0], bounds) == [None, None, 799, 400, 400, 400]
    assert dynamic_sources([799.9, 400.1, 3], bounds) == [799.9, 400.1, 400.1]
    assert dynamic_sources([900, 100], bounds) == [
        None,
        400,
    ]  # jumps over the interval: the t nearest to where it lands
    assert dynamic_sources([], bounds) == []
