"""The paper's Table 1: stage regulation and tandem equilibrium: neither, either one, and both.

All other settings are the recipe's.
"""

from dataclasses import replace

from pmagic.evaluation.variants import WHOLE, Variant, override_weights


def rows(whole: Variant) -> list[Variant]:
    """Four rows, each with its published row."""
    free = replace(whole.learn, bounds=WHOLE)
    return [
        replace(whole, key="vanilla", title="vanilla", learn=override_weights(free, tandem_equilibrium=0.0), table=1,
                label="Vanilla"),
        replace(whole, key="stages", title="+ stage regulation", table=1,
                learn=override_weights(whole.learn, tandem_equilibrium=0.0), label="+Stage Regulation"),
        replace(whole, key="equilibrium", title="+ tandem equilibrium", learn=free, table=1,
                label="+Tandem Equilibrium"),
        replace(whole, key="both", title="PersonaMagic (both)", table=1, label="PersonaMagic"),
    ]  # fmt: skip
