"""Other weights in the place of a base's own: exact restoring, gradients, forms of a difference, the closed merge."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from pmagic.bases.loading import Base
from pmagic.engine import concept_merge, reweighting
from pmagic.engine.hooks import exchanged_parameters
from pmagic.errors import Incompatible, UsageError

GOLDEN = Path(__file__).parent / "golden" / "methods" / "custom_diffusion.safetensors"


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return safetensors.torch.load_file(GOLDEN)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Conv1d(4, 3, 2)).double()


def test_the_same_objects_are_back_also_after_an_error_and_nested() -> None:
    net = network()
    before = dict(net.named_parameters())
    one, two = torch.zeros(7, 5).double(), torch.ones(7, 5).double()
    with pytest.raises(RuntimeError), exchanged_parameters(net, {"0.weight": one}):
        with exchanged_parameters(net, {"0.weight": two, "1.bias": torch.ones(7).double()}):
            assert net[0].weight is two
        assert net[0].weight is one
        raise RuntimeError
    after = dict(net.named_parameters())
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)


@pytest.mark.parametrize(
    "weights", [{"0.weight": (7, 5), "9.weight": (1,)}, {"0.weight": (7, 5), "1.bias": (8,)}, {"x": ()}]
)
def test_what_does_not_fit_is_refused_before_anything_is_exchanged(weights: dict[str, tuple[int, ...]]) -> None:
    net = network()
    own = net[0].weight
    with pytest.raises(Incompatible), exchanged_parameters(net, {k: torch.zeros(v) for k, v in weights.items()}):
        pass
    assert net[0].weight is own


def test_an_untrained_difference_changes_nothing_and_gradients_reach_it() -> None:
    net = network()
    x = torch.randn(4, 5).double()
    plain = net[:2](x)
    for rank in (0, 2):
        learner = reweighting.WeightDifference(net, ["0.weight", "1.weight"], rank=rank)
        with exchanged_parameters(net, learner.weights()):
            out = net[:2](x)
            out.square().sum().backward()
        assert torch.equal(out, plain)
        grads = {name: each.grad for name, each in learner.parts.items()}
        moved = ["0/weight/up" if rank else "0/weight", "1/weight"]
        assert all(grads[name] is not None and grads[name].abs().max() > 0 for name in moved)
        assert net[0].weight.grad is None


def test_full_rank_is_the_whole_difference_and_differences_add() -> None:
    net = network()
    whole = torch.randn(7, 5)
    tensors = {"weights.0.weight": whole, "weights.2.weight": torch.randn(3, 4, 2), "weights.1.bias": torch.randn(7)}
    cut, lost = reweighting.compress(tensors, 5)
    assert lost == 0 and cut.keys() == tensors.keys()
    arrays = {name: each.numpy() for name, each in tensors.items()}
    up, down = (each.numpy() for each in torch.linalg.qr(whole))
    factors = {"weights.0.weight.up": up, "weights.0.weight.down": down}
    applied = reweighting.sum_weights(net, [factors])
    assert torch.allclose(applied["0.weight"] - net[0].weight, whole.double(), atol=1e-6)
    both = reweighting.sum_weights(net, [arrays, factors])
    assert torch.allclose(both["0.weight"] - net[0].weight, 2 * whole.double(), atol=1e-6)
    assert torch.equal(reweighting.sum_weights(net, [arrays, arrays])["0.weight"], applied_once(net, arrays))
    half = reweighting.sum_weights(net, [arrays], [0.5])["2.weight"]
    assert torch.allclose(half - net[2].weight, tensors["weights.2.weight"].double() / 2)
    assert torch.equal(reweighting.sum_weights(net, [arrays], [0.0])["0.weight"], net[0].weight)


def applied_once(net: nn.Module, arrays: dict[str, np.ndarray]) -> Tensor:
    return reweighting.sum_weights(net, [arrays])["0.weight"]


def test_the_share_lost_to_rank_is_that_of_the_squares() -> None:
    matrix = torch.diag(torch.tensor([4.0, 3.0, 0.0]))
    cut, lost = reweighting.compress({"weights.x": matrix}, 1)
    assert lost == pytest.approx(9 / 25)
    assert torch.allclose(cut["weights.x.up"] @ cut["weights.x.down"], torch.diag(torch.tensor([4.0, 0.0, 0.0])))


@pytest.mark.parametrize(
    "tensors",
    [
        {"weights.0.weight.up": np.zeros((7, 2)), "weights.0.weight.down": np.zeros((3, 5))},
        {"weights.0.weight.up": np.zeros((7, 2))},
        {"weights.0.weight": np.zeros((7, 4))},
        {"weights.nowhere": np.zeros(3)},
    ],
)
def test_a_hostile_difference_is_incompatible(tensors: dict[str, np.ndarray]) -> None:
    with pytest.raises(Incompatible):
        reweighting.sum_weights(network(), [tensors])


pytest_plugins = ["tiny"]


def test_sets_of_weights(tiny_base: Base) -> None:
    unet = tiny_base.pipeline.unet
    sizes = {which: len(reweighting.select_names(unet, which)) for which in reweighting.WEIGHT_SETS}
    layers = sizes["cross-kv"] // 2
    assert sizes["attention"] == 8 * layers and sizes["cross"] == 5 * layers
    assert sizes["all"] == len(list(unet.parameters()))
    with pytest.raises(UsageError) as caught:
        reweighting.select_names(unet, "some")
    assert "cross-kv" in caught.value.next_step


def test_the_merge_is_the_authors_own(golden: dict[str, Tensor]) -> None:
    own, captions = golden["W0"], golden["captions"]
    rows = [golden["X1"], golden["X2"]]
    answers = [x @ (own + golden[f"D{k}"]).T for k, x in enumerate(rows, 1)]
    one = concept_merge.merge(own, captions, rows[0], answers[0], ridge=0.0)
    both = concept_merge.merge(own, captions, torch.cat(rows), torch.cat(answers), ridge=0.0)
    assert torch.allclose(one, golden["merge.one"], rtol=0, atol=1e-10)
    assert torch.allclose(both, golden["merge.two"], rtol=0, atol=1e-10)
    for x, v in zip(rows, answers, strict=True):
        assert torch.allclose(x @ both.T, v, atol=1e-10)  # each concept's own answers at its own phrases
    turned = concept_merge.merge(own, 7 * captions, torch.cat(rows[::-1]), torch.cat(answers[::-1]), ridge=0.0)
    assert torch.allclose(turned, both, atol=1e-10)  # whatever their order, and the captions' scale
    asked = torch.cat(answers) - torch.cat(rows) @ own.T
    assert torch.linalg.matrix_rank(both - own, tol=1e-9) == torch.linalg.matrix_rank(asked, tol=1e-9)


def test_no_difference_merges_to_the_base(golden: dict[str, Tensor]) -> None:
    own, x = golden["W0"], golden["X1"]
    assert torch.allclose(concept_merge.merge(own, golden["captions"], x, x @ own.T), own, rtol=0, atol=1e-12)


def test_equal_phrases_count_once(golden: dict[str, Tensor]) -> None:
    x = golden["X1"]
    rows, answers = concept_merge.distinct(torch.cat([x, x[:2]]), torch.cat([x, -x[:2]]))
    assert torch.equal(rows, x) and torch.equal(answers, x)
