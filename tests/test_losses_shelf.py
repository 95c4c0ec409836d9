"""Every loss on the shelf keeps the shelf's contract, and two of them give known answers here."""

import math

import pytest
import torch

from pmagic import shelf
from pmagic.engine.recipes import LOOK_AT_FACES
from pmagic.losses import StepOutput, masked_mse, tandem_equilibrium

B, H, S, D = 3, 2, 8, 5


def output(**changes: object) -> StepOutput:
    source = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=source)

    placeholder_index = torch.full((B, S), -1)
    placeholder_index[:, 2], placeholder_index[:, 3] = 0, 1
    values: dict[str, object] = {
        "t": torch.tensor([400, 500, 799]),
        "latents": normal(B, 4, 6, 6),
        "noisy": normal(B, 4, 6, 6),
        "prediction": normal(B, 4, 6, 6).requires_grad_(),
        "target": normal(B, 4, 6, 6),
        "mask": torch.rand(B, 1, 6, 6, generator=source),
        "keys": normal(B, S, D),
        "values": normal(B, S, D),
        "attention": normal(B, H, S, S).softmax(dim=-1).requires_grad_(),
        "open_placeholder_index": placeholder_index,
        "open_lengths": torch.full((B,), 5),
        "signal": torch.tensor([0.6, 0.4, 0.2]),
        "identity_distance": lambda clean: clean.square().mean(dim=(1, 2, 3)),
    }
    return StepOutput(**{**values, **changes})


@pytest.mark.parametrize("name", shelf.names("losses"))
def test_contract(name: str) -> None:
    loss = shelf.take("losses", name)
    assert isinstance(loss.READS_OPEN_PROMPT, bool) and isinstance(loss.READS_FACE, bool)
    assert loss.READS_FACE is (name in LOOK_AT_FACES)
    given = output()
    found = loss.loss(given)
    assert found.shape == (B,)
    assert found.isfinite().all()
    found.sum().backward()
    source = given.attention if loss.READS_OPEN_PROMPT else given.prediction
    assert source.grad is not None and source.grad.abs().sum() > 0
    if loss.READS_OPEN_PROMPT:
        with pytest.raises(ValueError, match="open prompt"):
            loss.loss(output(attention=None))
    if loss.READS_FACE:
        with pytest.raises(ValueError, match="recogniser"):
            loss.loss(output(identity_distance=None))


def test_masked_mse_counts_only_where_the_mask_is() -> None:
    target = torch.zeros(1, 4, 2, 2)
    prediction = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(1, 4, 2, 2)
    mask = torch.tensor([[[[1.0, 0.5], [0.0, 0.0]]]])
    given = output(prediction=prediction, target=target, mask=mask)
    assert masked_mse.loss(given).item() == pytest.approx((1 * 1 + 0.5 * 4) / 1.5)


def test_equilibrium_is_lowest_at_balance() -> None:
    attention = torch.zeros(B, H, S, S)
    attention[..., 2] = attention[..., 4] = 0.5  # the name and one other word share all attention
    given = output(attention=attention)
    assert tandem_equilibrium.loss(given).tolist() == pytest.approx([-0.25] * B)
    attention[..., 2] += 0.01
    expected = 1 / (1 + math.exp(-1.0))
    found = tandem_equilibrium.shares(attention, given.open_placeholder_index, given.open_lengths)
    assert found.tolist() == pytest.approx([expected] * B, rel=1e-5)


def test_equilibrium_leaves_out_start_end_and_padding() -> None:
    attention = torch.zeros(B, H, S, S)
    attention[..., 0] = attention[..., 6] = attention[..., 7] = 9.0
    attention[..., 3] = attention[..., 5] = 0.2
    given = output(attention=attention)
    assert tandem_equilibrium.loss(given).tolist() == pytest.approx([-0.25] * B)
