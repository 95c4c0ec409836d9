"""The rows of Table 1, and each row with stages also with a first stage that is fixed for all subjects."""

from dataclasses import replace

from pmagic.evaluation.ablations import table1
from pmagic.evaluation.variants import Variant
from pmagic.persona import StageBounds

FIXED = StageBounds(0, 550)  # above 550 the prompt has the plain word


def rows(whole: Variant) -> list[Variant]:
    """Six rows: the two rows of Table 1 with stages are each followed by the same row with fixed stages."""
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
