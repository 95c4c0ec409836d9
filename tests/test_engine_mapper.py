"""The mapper: its layout, its lengths, and a start that depends on the seed alone."""

import pytest
import torch

from pmagic.engine import randomness
from pmagic.engine.mapper import Mapper, MapperShape, keep_length, time_features
from pmagic.persona import REFERENCE_BOUNDS, StageBounds

SHAPE = MapperShape(tokens=4, text_width=768, image_width=512)


@pytest.fixture(scope="module")
def mapper() -> Mapper:
    with randomness.seeded_weights(0):
        return Mapper(SHAPE, torch.linspace(-0.1, 0.1, 768), REFERENCE_BOUNDS)


def test_layout_for_stable_diffusion(mapper: Mapper) -> None:
    shapes = {name: tuple(weight.shape) for name, weight in mapper.named_parameters() if name.endswith("weight")}
    assert shapes["time_input.weight"] == (200, 2048)
    assert shapes["time_hidden.0.weight"] == (128, 200)
    assert shapes["image_hidden.0.weight"] == (128, 128 + 512)
    assert shapes["dynamic_out.weight"] == shapes["residual_out.weight"] == (4 * 768, 128)
    assert "word" not in mapper.state_dict()  # it belongs to the base


def test_dynamic_tokens_are_as_long_as_the_word(mapper: Mapper) -> None:
    dynamic, residual = mapper(torch.tensor([400, 650, 799]), torch.randn(3, 512))
    assert dynamic.shape == residual.shape == (3, 4, 768)
    torch.testing.assert_close(dynamic.norm(dim=-1), mapper.word.norm().expand(3, 4))


def test_the_photo_moves_the_residual_only(mapper: Mapper) -> None:
    t = torch.tensor([500, 500])
    dynamic, residual = mapper(t, torch.stack([torch.zeros(512), torch.ones(512)]))
    assert torch.equal(dynamic[0], dynamic[1])
    assert not torch.equal(residual[0], residual[1])


def test_time_features_begin_with_cosines() -> None:
    features = time_features(torch.tensor([0.0, 1.0]))
    assert features.shape == (2, 2048)
    assert features[0, :1024].eq(1).all() and features[0, 1024:].eq(0).all()
    assert features[1, 0] == pytest.approx(0.5403, abs=1e-4)  # cos 1, the fastest
    assert features[1, 2047] == pytest.approx(1e-4, rel=0.01)  # sin of 1 / 10000, the slowest


def test_time_input_begins_at_anchors_spread_over_the_bounds() -> None:
    mapper = Mapper(SHAPE, torch.ones(768), StageBounds(100, 300))
    torch.testing.assert_close(mapper.time_input.weight[0], time_features(torch.tensor([100.0]))[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(mapper.time_input.weight[-1], time_features(torch.tensor([299.0]))[0], atol=1e-4, rtol=0)


def test_keep_length_returns_equal_vectors_bit_for_bit() -> None:
    vectors = torch.randn(50, 77, 32)
    assert torch.equal(keep_length(vectors, vectors), vectors)
    turned = keep_length(vectors * 3 + 1, vectors)
    torch.testing.assert_close(turned.norm(dim=-1), vectors.norm(dim=-1))


def test_a_word_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(10,\), expected \(768,\)"):
        Mapper(SHAPE, torch.ones(10), REFERENCE_BOUNDS)
