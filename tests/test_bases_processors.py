"""Attention is explicit where it needs a gradient, and fused where it needs none or the matrix is large."""

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor

from pmagic.bases import processors
from pmagic.bases.processors import CheapBackward


def attended(processor: object, given: Tensor, read: Tensor | None = None) -> Tensor:
    torch.manual_seed(0)
    attention = Attention(query_dim=16, heads=2, dim_head=8, cross_attention_dim=12 if read is not None else None)
    attention.set_processor(processor)
    with torch.autocast("cpu", torch.bfloat16):
        return attention(given, encoder_hidden_states=read)


@pytest.fixture
def given() -> Tensor:
    return torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def read() -> Tensor:
    return torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(2))


def test_both_kernels_agree_and_can_be_told_apart(given: Tensor) -> None:
    written, fused = attended(AttnProcessor(), given), attended(AttnProcessor2_0(), given)
    assert torch.allclose(written.float(), fused.float(), atol=2e-2)
    assert not torch.equal(written, fused)  # otherwise the comparison below would prove nothing


@pytest.mark.parametrize("through", ["self", "queries", "context"])
def test_a_gradient_goes_through_the_written_one(given: Tensor, read: Tensor, through: str) -> None:
    context = None if through == "self" else read.requires_grad_(through == "context")
    given.requires_grad_(through != "context")
    own = attended(CheapBackward(), given, context)
    assert torch.equal(own, attended(AttnProcessor(), given, context))
    own.float().square().sum().backward()
    assert (read if through == "context" else given).grad.isfinite().all()


def test_without_a_gradient_it_is_fused(given: Tensor, read: Tensor) -> None:
    for context in (None, read):
        assert torch.equal(attended(CheapBackward(), given, context), attended(AttnProcessor2_0(), given, context))


def test_a_matrix_too_large_to_keep_is_fused(given: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    given.requires_grad_(True)
    monkeypatch.setattr(processors, "LARGEST", 64 * 64)
    assert torch.equal(attended(CheapBackward(), given), attended(AttnProcessor(), given))
    monkeypatch.setattr(processors, "LARGEST", 64 * 64 - 1)
    assert torch.equal(attended(CheapBackward(), given), attended(AttnProcessor2_0(), given))
