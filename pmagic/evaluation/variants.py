"""Variants: what is compared with what. Recipes, or one recipe of which an ablation of the paper takes parts away."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from pmagic.engine.recipes import LearnSettings, RenderSettings, render_settings_for, settings_for
from pmagic.errors import UsageProblem
from pmagic.persona import StageBounds

WHOLE = StageBounds(0, 1000)  # no stage regulation: dynamic embeddings at every t
PAIRS = ((0.5, 1.0), (0.6, 1.0), (0.7, 1.0), (0.8, 1.0), (0.7, 0.9), (0.7, 0.8))  # lambda_1 and lambda_2 of Table 2
ABLATIONS = ("table1", "table2", "table5")


@dataclass(frozen=True)
class Variant:
    """One way of learning and drawing. table, label: the row of the paper that it is compared with, 0 for none."""

    key: str  # part of a path
    title: str
    learn: LearnSettings  # bounds of None are found by the probe, for each person
    render: RenderSettings
    table: int = 0
    label: str = ""


def variants(recipes: Sequence[str], ablation: str, defaults: Mapping[str, Any], pictures: int) -> list[Variant]:
    """One for each recipe, or the rows of one ablation of the only recipe.

    defaults: the base's pmagic.toml. pictures: of one prompt, drawn at once. Raises UsageProblem.
    """
    if len(set(recipes)) != len(recipes) or not recipes:
        raise UsageProblem(
            f"--recipe cannot be {','.join(recipes)!r}", "name each recipe once: --recipe paper,reference"
        )
    if ablation and ablation not in ABLATIONS:
        raise UsageProblem(f"there is no ablation {ablation!r}", f"choose one of: {', '.join(ABLATIONS)}")
    if ablation and len(recipes) > 1:
        raise UsageProblem("an ablation takes one recipe apart", f"give one: --recipe {recipes[0]}")
    found = []
    for recipe in recipes:
        learn = settings_for(recipe, defaults)
        render = render_settings_for(recipe, defaults, batch=pictures)
        whole = Variant(recipe, f"recipe {recipe}", learn, render, *_of_recipe(recipe))
        found += {"table1": _table1, "table2": _table2, "table5": _table5}[ablation](whole) if ablation else [whole]
    return found


def _of_recipe(recipe: str) -> tuple[int, str]:
    return (6, "PersonaMagic") if recipe == "paper" else (0, "")


def _table1(whole: Variant) -> list[Variant]:
    """Both of the paper's parts, one, the other, none; everything else is the recipe's."""
    free = replace(whole.learn, bounds=WHOLE)
    return [
        replace(whole, key="vanilla", title="vanilla", learn=_weighted(free, tandem_equilibrium=0.0), table=1,
                label="Vanilla"),
        replace(whole, key="stages", title="+ stage regulation", learn=_weighted(whole.learn, tandem_equilibrium=0.0),
                table=1, label="+Stage Regulation"),
        replace(whole, key="equilibrium", title="+ tandem equilibrium", learn=free, table=1,
                label="+Tandem Equilibrium"),
        replace(whole, key="both", title="PersonaMagic (both)", table=1, label="PersonaMagic"),
    ]  # fmt: skip


def _table2(whole: Variant) -> list[Variant]:
    """The probe's thresholds; the recipe's own bounds, if it fixes them, give way to the probe's."""
    return [
        replace(
            whole,
            key=f"lambda-{low:g}-{high:g}",
            title=f"λ1 = {low:g}, λ2 = {high:g}",
            learn=replace(whole.learn, bounds=None, iou_low=low, iou_high=high),
            table=2,
            label=f"{low:.1f}, {high:.1f}",
        )
        for low, high in PAIRS
    ]


def _table5(whole: Variant) -> list[Variant]:
    """The identity loss with its weight over t, with that weight's mean at every t, and without it."""
    weight = whole.learn.losses.get("identity", 0.0) or 1.0
    told = [
        ("weighted", "λ_id(t) L_id", {"identity": weight, "identity_constant": 0.0}, 5, "PersonaMagic"),
        ("constant", "L_id, constant weight", {"identity": 0.0, "identity_constant": weight}, 0, ""),
        ("none", "no identity loss", {"identity": 0.0, "identity_constant": 0.0}, 0, ""),
    ]
    return [
        Variant(key, title, _weighted(whole.learn, **weights), whole.render, table, label)
        for key, title, weights, table, label in told
    ]


def _weighted(learn: LearnSettings, **weights: float) -> LearnSettings:
    """The settings with other weights of some losses; a loss of weight 0 is left out."""
    losses = {name: weight for name, weight in {**learn.losses, **weights}.items() if weight}
    return replace(learn, losses=MappingProxyType(losses))
