"""The paper's results, to compare with a run. All are of photographs, and of the base named in the row."""

from dataclasses import dataclass

SD, DREAMLIKE = "sd14", "dreamlike"


@dataclass(frozen=True, kw_only=True)
class Row:
    """Published T-Sim and I-Pre. base: our short name of the base that they were measured with."""

    table: int
    label: str
    dataset: str  # a name on the datasets shelf
    base: str
    t_sim: float
    i_pre: float

    def describe(self) -> str:
        base = {SD: "Stable Diffusion 1.4", DREAMLIKE: "Dreamlike Photoreal 2.0"}[self.base]
        return f"Table {self.table}, {self.label}, {self.dataset.replace('_', '-')}, {base}"


def _rows(table: int, base: str, datasets: tuple[str, ...], scores: dict[str, tuple[float, ...]]) -> list[Row]:
    """scores: T-Sim and I-Pre of the first data set, then of the second, and so on."""
    return [
        Row(table=table, label=label, dataset=dataset, base=base, t_sim=each[2 * k], i_pre=each[2 * k + 1])
        for label, each in scores.items()
        for k, dataset in enumerate(datasets)
    ]


ROWS = [
    *_rows(1, SD, ("celeba_hq", "lfw"), {
        "Vanilla": (0.610, 0.334, 0.631, 0.226),
        "+Stage Regulation": (0.672, 0.363, 0.665, 0.289),
        "+Tandem Equilibrium": (0.691, 0.284, 0.668, 0.206),
        "PersonaMagic": (0.744, 0.358, 0.753, 0.278),
    }),
    *_rows(2, SD, ("celeba_hq",), {
        "0.5, 1.0": (0.691, 0.284),
        "0.6, 1.0": (0.727, 0.307),
        "0.7, 1.0": (0.744, 0.328),
        "0.8, 1.0": (0.749, 0.302),
        "0.7, 0.9": (0.741, 0.328),
        "0.7, 0.8": (0.744, 0.358),
    }),
    *_rows(5, SD, ("celeba_hq",), {"PersonaMagic": (0.747, 0.345)}),
    *_rows(6, SD, ("celeba_hq", "ffhq", "lfw"), {"PersonaMagic": (0.747, 0.345, 0.747, 0.407, 0.751, 0.278)}),
    *_rows(7, DREAMLIKE, ("celeba_hq", "ffhq", "lfw"), {"PersonaMagic": (0.762, 0.447, 0.764, 0.442, 0.764, 0.300)}),
]  # fmt: skip


_BASES = {6: (6, 7)}  # Table 7 is Table 6 with another base


def find_row(table: int, label: str, dataset: str, base: str) -> Row | None:
    """The published row closest to a run, first by data set, then by base; else the first row, CelebA-HQ's."""
    known = [each for each in ROWS if each.table in _BASES.get(table, (table,)) and each.label == label]
    return max(known, key=lambda each: (each.dataset == dataset, each.base == base), default=None)
