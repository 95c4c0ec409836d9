"""The start of the dynamic stage, fixed for all subjects. Results on training people fix how the probe is read."""

from dataclasses import replace

from pmagic.evaluation.variants import Variant
from pmagic.persona import StageBounds

HIGHS = (1000, 850, 700, 550, 400)  # timesteps; above them the prompt has the plain word


def rows(whole: Variant) -> list[Variant]:
    """The whole schedule, then ever later starts in sampling order (lower timesteps)."""
    return [
        replace(
            whole,
            key=f"0-{high}",
            title=f"stages 0:{high}",
            learn=replace(whole.learn, bounds=StageBounds(0, high)),
            table=0,
            label="",
        )
        for high in HIGHS
    ]
