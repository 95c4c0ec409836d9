"""Variants: what an ablation takes away, and nothing else; and the paper's row that stands beside each."""

from dataclasses import replace

import pytest

from pmagic import methods, shelf
from pmagic.errors import UsageError
from pmagic.evaluation import ablations, published, subject_run
from pmagic.evaluation.ablations import first_stage
from pmagic.evaluation.ablations.table2 import PAIRS
from pmagic.evaluation.variants import WHOLE, variants
from pmagic.methods import textual_inversion

EVERY = methods.names()


def made(ablation: str, recipe: str = "paper", defaults: dict | None = None) -> dict:
    return {each.key: each for each in variants([methods.DEFAULT], [recipe], ablation, defaults or {}, 4)}


def test_table1_takes_stages_and_equilibrium_apart() -> None:
    rows = made("table1")
    whole = rows["both"].learn
    assert list(rows) == ["vanilla", "stages", "equilibrium", "both"]
    assert [rows[key].learn.bounds for key in rows] == [WHOLE, None, WHOLE, None]
    assert ["tandem_equilibrium" in rows[key].learn.losses for key in rows] == [False, False, True, True]
    for row in rows.values():
        assert replace(row.learn, bounds=whole.bounds, losses=whole.losses) == whole
        assert row.learn.losses["identity"] == whole.losses["identity"]
        assert row.render == rows["both"].render and row.render.batch == 4


def test_table1_of_the_reference_keeps_its_fixed_stages() -> None:
    rows = made("table1", "reference")
    assert (rows["both"].learn.bounds.low, rows["both"].learn.bounds.high) == (400, 800)
    assert rows["vanilla"].learn.losses == {"masked_mse": 1.0}


def test_a_fixed_first_stage_stands_beside_each_row_with_stages() -> None:
    rows, table1 = made("first_stage"), made("table1")
    assert list(rows) == ["vanilla", "stages", "stages-fixed", "equilibrium", "both", "both-fixed"]
    assert {key: row for key, row in rows.items() if "fixed" not in key} == table1
    for key in ("stages", "both"):
        fixed = rows[f"{key}-fixed"]
        assert fixed.learn == replace(table1[key].learn, bounds=first_stage.FIXED)
        assert fixed.title != table1[key].title and not fixed.table  # the paper has no such row


def test_bounds_only_move_where_the_dynamic_stage_begins() -> None:
    rows = list(made("bounds", "tuned").values())
    whole = made("", "tuned")["tuned"].learn
    assert rows[0].learn == replace(whole, bounds=WHOLE)
    assert all(replace(row.learn, bounds=None) == whole and row.learn.bounds.low == 0 for row in rows)
    highs = [row.learn.bounds.high for row in rows]
    assert highs == sorted(set(highs), reverse=True)


def test_stages_alone_move_nothing_but_bounds() -> None:
    rows = made("stages", "tuned")
    whole = made("", "tuned")["tuned"].learn
    assert [row.learn.bounds for row in rows.values()] == [WHOLE, None, first_stage.FIXED]
    assert all(replace(row.learn, bounds=None) == whole for row in rows.values())


def test_a_length_that_is_asked_for_is_every_rows() -> None:
    for ablation in shelf.names(ablations.SHELF):
        assert {row.learn.iterations for row in variants(EVERY, ["paper"], ablation, {}, 1, iterations=300)} == {300}
    assert variants(EVERY, ["paper"], "", {}, 1)[0].learn.iterations == 1000


def test_a_method_without_stages_is_one_row_beside_recipes_and_ablations() -> None:
    both = ["personamagic", "textual_inversion"]
    rows = variants(both, ["paper", "reference"], "", {}, 4)
    assert [row.key for row in rows] == ["paper", "reference", "textual_inversion"]
    assert [row.title for row in rows] == [
        "personamagic, recipe paper",
        "personamagic, recipe reference",
        "textual_inversion",
    ]
    assert rows[2].learn == methods.take("textual_inversion").settings_for("paper", {})
    assert rows[2].render == rows[0].render  # drawn in the same way
    rows = variants(both, ["paper"], "table1", {}, 4)
    assert [row.key for row in rows] == ["vanilla", "stages", "equilibrium", "both", "textual_inversion"]
    assert [row.table for row in rows] == [1, 1, 1, 1, 0]


@pytest.mark.parametrize("ablation", ["", "table1", "table5"])
def test_another_method_with_stages_has_rows_and_keys_of_its_own(
    ablation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(textual_inversion, "HAS_STAGES", True)
    own, other = (variants([name], ["paper"], ablation, {}, 4) for name in ("personamagic", "textual_inversion"))
    assert [row.key for row in other] == [f"textual_inversion-{row.key}" for row in own]
    assert [row.title for row in other] == [f"textual_inversion, {row.title}" for row in own]
    assert {row.table for row in other} == {0}  # the published rows are of PersonaMagic


@pytest.mark.parametrize(
    ("asked", "recipes", "ablation", "told"),
    [
        (["textual_inversion"], ["paper"], "table1", "ablation table1 differ in stages .* textual_inversion cannot"),
        (["textual_inversion"], ["paper", "reference"], "", "recipes differ in stages"),
        (["personamagic", "personamagic"], ["paper"], "", "--method cannot be 'personamagic,personamagic'"),
    ],
)
def test_methods_that_cannot_be_compared(asked: list[str], recipes: list[str], ablation: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as raised:
        variants(asked, recipes, ablation, {}, 1)
    assert "--method personamagic," in raised.value.next_step


def test_the_default_method_leaves_no_trace_in_plans_and_places() -> None:
    """Evaluations that were begun before there were other methods go on: names on disk as they were then."""
    reference = variants(["personamagic"], ["reference"], "", {}, 2)[0]
    assert list(reference.as_table()) == ["key", "title", "learn", "render"]
    assert subject_run.persona_place("personamagic", reference.learn) == "045ba7e0"
    other = replace(reference, method="textual_inversion")
    assert other.as_table()["method"] == "textual_inversion"
    assert subject_run.persona_place(other.method, other.learn) != "045ba7e0"


def test_table2_has_the_papers_pairs_found_by_the_probe() -> None:
    rows = list(made("table2", "reference").values())
    assert [(row.learn.iou_low, row.learn.iou_high) for row in rows] == list(PAIRS)
    assert all(row.learn.bounds is None for row in rows)
    assert len({row.key for row in rows}) == len(PAIRS)


def test_table5_changes_only_the_identity_loss() -> None:
    rows = made("table5", defaults={"learn": {"losses": {"masked_mse": 1.0, "identity": 0.5}}})
    assert rows["weighted"].learn.losses == {"masked_mse": 1.0, "identity": 0.5}
    assert rows["constant"].learn.losses == {"masked_mse": 1.0, "identity_constant": 0.5}
    assert rows["none"].learn.losses == {"masked_mse": 1.0}
    for row in rows.values():
        assert all(name in shelf.names("losses") for name in row.learn.losses)


@pytest.mark.parametrize("ablation", ["", *shelf.names(ablations.SHELF)])
def test_the_papers_rows_are_there(ablation: str) -> None:
    for row in made(ablation).values():
        if row.table:
            found = published.find_row(row.table, row.label, "world", "mini")
            assert found is not None and found.dataset == "celeba_hq"


def test_the_nearest_published_row_is_taken() -> None:
    assert published.find_row(1, "Vanilla", "lfw", "sd14").t_sim == 0.631
    assert published.find_row(6, "PersonaMagic", "ffhq", "sd14").i_pre == 0.407
    assert published.find_row(6, "PersonaMagic", "ffhq", "dreamlike").i_pre == 0.442
    assert published.find_row(6, "PersonaMagic", "folder", "dreamlike").table == 7
    assert published.find_row(2, "0.7, 0.8", "lfw", "sd14").dataset == "celeba_hq"
    assert published.find_row(9, "PersonaMagic", "lfw", "sd14") is None


def test_the_constant_weight_is_the_mean_of_the_other() -> None:
    import torch

    from pmagic.losses import identity, identity_constant

    assert float(identity.weight(torch.arange(1000)).mean()) == pytest.approx(identity_constant.WEIGHT, abs=1e-3)
