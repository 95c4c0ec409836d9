"""Only the stages vary: none, the recipe's, and a first stage fixed for all subjects. The losses are the recipe's."""

from dataclasses import replace

from pmagic.evaluation.ablations.first_stage import FIXED
from pmagic.evaluation.variants import WHOLE, Variant


def rows(whole: Variant) -> list[Variant]:
    """Three rows. If the recipe's stages equal those of another row, the two rows share their pictures."""
    whole = replace(whole, table=0, label="")
    return [
        replace(whole, key="whole", title="the whole schedule", learn=replace(whole.learn, bounds=WHOLE)),
        replace(whole, key="stages", title=f"stages of the recipe {whole.learn.recipe}"),
        replace(whole, key="fixed", title=f"fixed {FIXED.low}:{FIXED.high}", learn=replace(whole.learn, bounds=FIXED)),
    ]
