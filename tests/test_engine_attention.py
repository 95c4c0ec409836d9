"""Attention capture: the numbers that an explicit softmax gives, packed or not, and nothing left behind."""

import pytest
import tiny
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor

from pmagic.bases import loading
from pmagic.engine import attention
from pmagic.engine.attention import AttentionMap
from pmagic.engine.conditioning import packed_kv

pytest_plugins = ["tiny"]

ROWS, LENGTH = 2, 7
EVERY = torch.ones(ROWS, LENGTH, dtype=torch.bool)


def ask(base: loading.Base, condition: torch.Tensor, size: tuple[int, int] = (8, 8)) -> None:
    noise = torch.randn(ROWS, 4, *size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        base.pipeline.unet(noise, torch.tensor([500, 500]), encoder_hidden_states=condition, return_dict=False)


@pytest.fixture
def condition() -> torch.Tensor:
    return torch.randn(ROWS, LENGTH, tiny.WIDTH, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def chosen() -> torch.Tensor:
    found = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    found[0, 2] = found[0, 3] = found[1, 5] = True
    return found


def test_it_sees_what_the_softmax_gives(
    tiny_base: loading.Base, condition: torch.Tensor, chosen: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against diffusers' own processor that forms the probabilities, spied upon."""
    unet = tiny_base.pipeline.unet
    with attention.capture_attention(unet, chosen, EVERY) as looks:
        ask(tiny_base, condition)
    formed: list[torch.Tensor] = []
    original = Attention.get_attention_scores

    def spy(self: Attention, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        found = original(self, query, key, mask)
        if key.shape[1] == LENGTH:
            formed.append(found.unflatten(0, (ROWS, self.heads)))
        return found

    before = dict(unet.attn_processors)
    monkeypatch.setattr(Attention, "get_attention_scores", spy)
    try:
        unet.set_attn_processor(AttnProcessor())
        ask(tiny_base, condition)
    finally:
        unet.set_attn_processor(before)
    assert len(looks) == len(formed) >= 3
    for look, whole in zip(looks, formed, strict=True):
        first = whole[0, :, :, 2:4].mean(dim=(0, 2))
        second = whole[1, :, :, 5].mean(dim=0)
        torch.testing.assert_close(look.weights.flatten(1), torch.stack([first, second]), atol=1e-6, rtol=1e-5)


def test_every_token_together_takes_all_attention(tiny_base: loading.Base, condition: torch.Tensor) -> None:
    with attention.capture_attention(tiny_base.pipeline.unet, EVERY, EVERY) as looks:
        ask(tiny_base, condition)
    for look in looks:
        torch.testing.assert_close(look.weights, torch.full_like(look.weights, 1 / LENGTH))


def test_positions_that_are_no_rivals_take_nothing(tiny_base: loading.Base, condition: torch.Tensor) -> None:
    """The words share a cell's attention among themselves; start and padding get none of it."""
    among = EVERY.clone()
    among[:, 0] = among[:, 6] = False
    one_each = [EVERY & (torch.arange(LENGTH) == k) for k in range(LENGTH)]
    shares = []
    for chosen in one_each:
        with attention.capture_attention(tiny_base.pipeline.unet, chosen, among) as looks:
            ask(tiny_base, condition)
        shares.append(looks[0].weights)
    assert shares[0].max() == shares[6].max() == 0
    torch.testing.assert_close(sum(shares), torch.ones_like(shares[0]))
    with attention.capture_attention(tiny_base.pipeline.unet, one_each[3], EVERY) as looks:
        ask(tiny_base, condition)
    assert (shares[3] > looks[0].weights).all()


def test_packed_conditions_are_seen_by_their_keys(
    tiny_base: loading.Base, condition: torch.Tensor, chosen: torch.Tensor
) -> None:
    unet = tiny_base.pipeline.unet
    with packed_kv(unet), attention.capture_attention(unet, chosen, EVERY) as looks:
        ask(tiny_base, condition)
        ask(tiny_base, torch.cat([condition, condition], dim=-1))
        ask(tiny_base, torch.cat([condition, -condition], dim=-1))
    plain, same, other = (looks[k : k + len(looks) // 3] for k in range(0, len(looks), len(looks) // 3))
    assert [each.layer for each in plain] == [each.layer for each in same] == [each.layer for each in other]
    assert all(torch.equal(a.weights, b.weights) for a, b in zip(plain, same, strict=True))
    assert torch.equal(plain[0].weights, other[0].weights)  # values come in after the first layer
    assert not torch.equal(plain[-1].weights, other[-1].weights)


def test_pictures_need_not_be_square_and_no_hook_stays(
    tiny_base: loading.Base, condition: torch.Tensor, chosen: torch.Tensor
) -> None:
    with attention.capture_attention(tiny_base.pipeline.unet, chosen, EVERY) as looks:
        ask(tiny_base, condition, (6, 10))
    assert {tuple(look.weights.shape) for look in looks} == {(ROWS, 6, 10), (ROWS, 3, 5)}
    assert tiny.hooks_of(tiny_base) == []


def look(name: str, side: int, value: float) -> AttentionMap:
    return AttentionMap(name, torch.full((1, side, side), value))


def test_the_average_is_of_the_middle_layers() -> None:
    """Stable Diffusion's: 64, 32, 16 and 8 cells; those of 32 and 16 count, layer by layer."""
    looks = [look("a", 64, 9.0), look("b", 32, 1.0), look("c", 16, 3.0), look("d", 16, 5.0), look("e", 8, 9.0)]
    found = attention.average(looks, (64, 64))
    assert found.shape == (1, 64, 64)
    assert found.unique().tolist() == [3.0]
    small = [look("a", 16, 2.0), look("b", 8, 9.0), look("c", 4, 9.0)]  # 8 cells outline no face
    assert attention.average(small, (16, 16)).unique().tolist() == [2.0]
    tiny_ones = [look("a", 8, 2.0), look("b", 4, 9.0)]
    assert attention.average(tiny_ones, (8, 8)).unique().tolist() == [2.0]
