"""Variants: what is compared with what. Recipes, or one recipe of which an ablation takes parts away."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from pmagic import shelf
from pmagic.engine.recipes import LearnSettings, RenderSettings, render_settings_for, settings_for
from pmagic.errors import UsageError
from pmagic.evaluation import ablations
from pmagic.persona import StageBounds

WHOLE = StageBounds(0, 1000)  # no stage regulation: dynamic embeddings at every t


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way of learning and drawing. table, label: the row of the paper that it is compared with, 0 for none."""

    key: str  # part of a path
    title: str
    learn: LearnSettings  # bounds of None are found by the probe, for each person
    render: RenderSettings
    table: int = 0
    label: str = ""


def variants(
    recipes: Sequence[str], ablation: str, defaults: Mapping[str, Any], pictures: int, iterations: int | None = None
) -> list[Variant]:
    """One for each recipe, or the rows of one ablation of the only recipe.

    defaults: the base's pmagic.toml. pictures: of one prompt, drawn at once. iterations: of learning, None for the
    recipe's own. Raises UsageError.
    """
    if len(set(recipes)) != len(recipes) or not recipes:
        raise UsageError(f"--recipe cannot be {','.join(recipes)!r}", "name each recipe once: --recipe paper,reference")
    known = shelf.names(ablations.SHELF)
    if ablation and ablation not in known:
        raise UsageError(f"there is no ablation {ablation!r}", f"choose one of: {', '.join(known)}")
    if ablation and len(recipes) > 1:
        raise UsageError("an ablation takes one recipe apart", f"give one: --recipe {recipes[0]}")
    found = []
    for recipe in recipes:
        learn = settings_for(recipe, defaults, iterations=iterations)
        render = render_settings_for(recipe, defaults, batch=pictures)
        table, label = _of_recipe(recipe)
        whole = Variant(key=recipe, title=f"recipe {recipe}", learn=learn, render=render, table=table, label=label)
        found += shelf.take(ablations.SHELF, ablation).rows(whole) if ablation else [whole]
    return found


def _of_recipe(recipe: str) -> tuple[int, str]:
    return (6, "PersonaMagic") if recipe == "paper" else (0, "")


def weighted(learn: LearnSettings, **weights: float) -> LearnSettings:
    """The settings with other weights of some losses; a loss of weight 0 is left out."""
    losses = {name: weight for name, weight in {**learn.losses, **weights}.items() if weight}
    return replace(learn, losses=MappingProxyType(losses))
