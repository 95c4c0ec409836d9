"""Ablations, one file each: rows that take one recipe apart. The contract of a file on this shelf:

rows(whole: Variant) -> list[Variant]    whole: the recipe as it is; keys that differ
"""

SHELF = "evaluation.ablations"
