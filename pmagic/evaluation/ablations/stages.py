"""Stages alone: none, the recipe's own, and a first stage that is the same for everybody. Losses are the recipe's."""

from dataclasses import replace

from pmagic.evaluation.ablations.first_stage import FIXED
from pmagic.evaluation.variants import WHOLE, Variant


def rows(whole: Variant) -> list[Variant]:
    """Three; where the recipe's stages come to another row's, the two share their pictures."""
    whole = replace(whole, table=0, label="")
    return [
        replace(whole, key="whole", title="the whole schedule", learn=replace(whole.learn, bounds=WHOLE)),
        replace(whole, key="stages", title=f"stages of the recipe {whole.learn.recipe}"),
        replace(whole, key="fixed", title=f"fixed {FIXED.low}:{FIXED.high}", learn=replace(whole.learn, bounds=FIXED)),
    ]
