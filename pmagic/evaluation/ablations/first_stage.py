"""Table 1's rows, and with the probe's bounds beside them a first stage that is the same for everybody."""

from dataclasses import replace

from pmagic.evaluation.ablations import table1
from pmagic.evaluation.variants import Variant
from pmagic.persona import StageBounds

FIXED = StageBounds(0, 550)  # the plain word above


def rows(whole: Variant) -> list[Variant]:
    """Six: each of Table 1's two rows with stages is followed by the same with the fixed ones."""
    found = []
    for row in table1.rows(whole):
        found.append(row)
        if row.key in ("stages", "both"):
            found.append(
                replace(
                    row,
                    key=f"{row.key}-fixed",
                    title=f"{row.title}, fixed {FIXED.low}:{FIXED.high}",
                    learn=replace(row.learn, bounds=FIXED),
                    table=0,
                    label="",
                )
            )
    return found
