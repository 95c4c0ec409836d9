"""Variants: the rows that are compared: methods, and for methods with stages also recipes or rows of an ablation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from pmagic import methods, shelf
from pmagic.engine.recipes import LearnSettings, RenderSettings, render_settings_for
from pmagic.errors import UsageError
from pmagic.evaluation import ablations
from pmagic.persona import StageBounds

WHOLE = StageBounds(0, 1000)  # no stage regulation: dynamic embeddings at every t


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A method with its settings. table, label: the published row that it is compared with; table is 0 without one."""

    key: str  # part of a path
    title: str
    method: str  # a name on the methods shelf
    learn: LearnSettings  # if bounds is None, the probe finds them for each subject
    render: RenderSettings
    table: int = 0
    label: str = ""

    def as_table(self) -> dict[str, object]:
        """The variant in a plan. The default method is left out, so that plans from before other methods stay valid."""
        method = {} if self.method == methods.DEFAULT else {"method": self.method}
        about = {"key": self.key, "title": self.title, **method}
        return {**about, "learn": self.learn.as_table(), "render": vars(self.render)}


def variants(
    asked: Sequence[str],
    recipes: Sequence[str],
    ablation: str,
    defaults: Mapping[str, Any],
    pictures: int,
    iterations: int | None = None,
) -> list[Variant]:
    """The variants of all methods.

    A method with stages has one variant per recipe, or the rows of an ablation, which takes exactly one recipe. Any
    other method has one variant, with the render settings of the first recipe.

    asked: the methods. defaults: the base's pmagic.toml. pictures: per prompt, rendered in one batch. iterations: of
    learning, None for the recipe's default. Raises NotFound or UsageError.
    """
    if len(set(asked)) != len(asked) or not asked:
        every = ",".join(methods.names())
        raise UsageError(f"--method cannot be {','.join(asked)!r}", f"name each method once: --method {every}")
    if len(set(recipes)) != len(recipes) or not recipes:
        raise UsageError(f"--recipe cannot be {','.join(recipes)!r}", "name each recipe once: --recipe paper,reference")
    known = shelf.names(ablations.SHELF)
    if ablation and ablation not in known:
        raise UsageError(f"there is no ablation {ablation!r}", f"choose one of: {', '.join(known)}")
    if ablation and len(recipes) > 1:
        raise UsageError("an ablation takes one recipe apart", f"give one: --recipe {recipes[0]}")
    modules = {name: methods.take(name) for name in asked}
    if (ablation or len(recipes) > 1) and not any(method.HAS_STAGES for method in modules.values()):
        differ = f"the rows of the ablation {ablation}" if ablation else "recipes"
        raise UsageError(
            f"{differ} differ in stages and their losses, which {' and '.join(asked)} cannot have",
            f"add a method that has them: --method {','.join([methods.DEFAULT, *asked])}",
        )
    rows = []
    for name, method in modules.items():
        mine = []
        for recipe in recipes if method.HAS_STAGES else recipes[:1]:
            learn = method.settings_for(recipe, defaults, iterations=iterations)
            render = render_settings_for(recipe, defaults, batch=pictures)
            table, label = _of_recipe(recipe)
            title = f"recipe {recipe}"
            row = Variant(key=recipe, title=title, method=name, learn=learn, render=render, table=table, label=label)
            mine.append(row)
        if ablation and method.HAS_STAGES:
            mine = [row for whole in mine for row in shelf.take(ablations.SHELF, ablation).rows(whole)]
        rows += [_name(row, method.HAS_STAGES, alone=len(asked) == 1) for row in mine]
    return rows


def _name(row: Variant, has_stages: bool, *, alone: bool) -> Variant:
    """The variant with the method in its title if there are several, and in its key if it is not the default method.

    Only the default method is compared with published rows.
    """
    if row.method == methods.DEFAULT:
        return row if alone else replace(row, title=f"{row.method}, {row.title}")
    row = replace(row, table=0, label="")
    if not has_stages:
        return replace(row, key=row.method, title=row.method)
    return replace(row, key=f"{row.method}-{row.key}", title=f"{row.method}, {row.title}")


def _of_recipe(recipe: str) -> tuple[int, str]:
    return (6, "PersonaMagic") if recipe == "paper" else (0, "")


def override_weights(learn: LearnSettings, **weights: float) -> LearnSettings:
    """The settings with some loss weights changed; a loss with weight 0 is removed."""
    losses = {name: weight for name, weight in {**learn.losses, **weights}.items() if weight}
    return replace(learn, losses=MappingProxyType(losses))
