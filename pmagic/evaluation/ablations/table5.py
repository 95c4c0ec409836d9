"""The paper's Table 5: the identity loss with its weight over t, with that weight's mean at every t, and without it."""

from pmagic.evaluation.variants import Variant, weighted


def rows(whole: Variant) -> list[Variant]:
    """Three; the paper prints the first alone."""
    weight = whole.learn.losses.get("identity", 0.0) or 1.0
    asked = [
        ("weighted", "λ_id(t) L_id", {"identity": weight, "identity_constant": 0.0}, 5, "PersonaMagic"),
        ("constant", "L_id, constant weight", {"identity": 0.0, "identity_constant": weight}, 0, ""),
        ("none", "no identity loss", {"identity": 0.0, "identity_constant": 0.0}, 0, ""),
    ]
    return [
        Variant(
            key=key, title=title, learn=weighted(whole.learn, **weights), render=whole.render, table=table, label=label
        )
        for key, title, weights, table, label in asked
    ]
