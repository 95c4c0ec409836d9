"""The paper's Table 2: the probe's thresholds. The probe always finds the bounds, even if the recipe fixes them."""

from dataclasses import replace

from pmagic.evaluation.variants import Variant

PAIRS = ((0.5, 1.0), (0.6, 1.0), (0.7, 1.0), (0.8, 1.0), (0.7, 0.9), (0.7, 0.8))  # lambda_1 and lambda_2


def rows(whole: Variant) -> list[Variant]:
    """One row per pair of thresholds."""
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
