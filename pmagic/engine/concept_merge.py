"""Merging: one projection for several concepts, in closed form (Custom Diffusion, Sec. 3.3).

Of all W that map each concept's phrases as that concept's own fine-tuned weights do, it is the one that changes the
outputs for usual captions least.
"""

# N captions' rows . m phrases' rows . i, o input and output features of a projection

import torch
from torch import Tensor

from pmagic.errors import NumericFailure

RIDGE = 1e-6  # relative to the mean eigenvalue of the Gram matrix, which few captions would leave singular


def merge(own: Tensor, captions: Tensor, phrases: Tensor, answers: Tensor, *, ridge: float = RIDGE) -> Tensor:
    """W (o, i) = W0 + (V - W0 X')(P X')^-1 P with P = X G^-1 and G = R'R, in float64.

    own: W0 (o, i). captions: R (N, i), encodings of the words of usual captions. phrases: X (m, i), encodings of the
    concepts' phrases, no two rows equal. answers: V' (m, o), the outputs of each concept's own weights for its rows.
    Raises NumericFailure if two phrases are too similar, so that the system is singular.
    """
    own64, rows, wanted = own.double(), phrases.double(), answers.double().T
    gram = captions.double().T @ captions.double()
    gram = gram + ridge * gram.trace() / len(gram) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    projected = torch.linalg.solve(gram, rows.T).T  # P (m, i)
    inner = projected @ rows.T
    change, info = torch.linalg.solve_ex(inner.T, (wanted - own64 @ rows.T).T)
    if info.any() or not change.isfinite().all():
        raise NumericFailure(
            "the phrases of two personas are too much alike to be merged",
            "draw them one by one, or learn them together",
        )
    return own64 + change.T @ projected


def distinct(rows: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (m, i) and their answers (m, o) without repeated rows; the first of equal rows is kept."""
    keep: list[int] = []
    for number in range(len(rows)):
        if not any(torch.equal(rows[number], rows[other]) for other in keep):
            keep.append(number)
    return rows[keep], answers[keep]
