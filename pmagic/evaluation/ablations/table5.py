"""The paper's Table 5: the identity loss weighted by t, with the mean of that weight at every t, and without it."""

from dataclasses import replace

from pmagic.evaluation.variants import Variant, override_weights


def rows(whole: Variant) -> list[Variant]:
    """Three rows; the paper publishes only the first."""
    weight = whole.learn.losses.get("identity", 0.0) or 1.0
    asked = [
        ("weighted", "λ_id(t) L_id", {"identity": weight, "identity_constant": 0.0}, 5, "PersonaMagic"),
        ("constant", "L_id, constant weight", {"identity": 0.0, "identity_constant": weight}, 0, ""),
        ("none", "no identity loss", {"identity": 0.0, "identity_constant": 0.0}, 0, ""),
    ]
    return [
        replace(whole, key=key, title=title, learn=override_weights(whole.learn, **weights), table=table, label=label)
        for key, title, weights, table, label in asked
    ]
