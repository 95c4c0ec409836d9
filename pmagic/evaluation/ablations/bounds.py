"""Where the dynamic stage begins, the same for everybody: what the probe's reading is chosen by, on training people."""

from dataclasses import replace

from pmagic.evaluation.variants import Variant
from pmagic.persona import StageBounds

HIGHS = (1000, 850, 700, 550, 400)  # timesteps; the plain word stands above


def rows(whole: Variant) -> list[Variant]:
    """The whole schedule, then ever later beginnings."""
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
