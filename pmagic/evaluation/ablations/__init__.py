"""Ablations, one file each: variants of one recipe. The contract of a file on this shelf:

rows(whole: Variant) -> list[Variant]    whole: the unchanged recipe. The keys of the rows differ.
"""

SHELF = "evaluation.ablations"
