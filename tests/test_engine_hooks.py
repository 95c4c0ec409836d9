"""What is put into a network for a while: in force inside, gone afterwards, also after an error and when nested."""

import pytest
import tiny
import torch
from torch import Tensor, nn

from pmagic.bases import loading
from pmagic.engine import memory
from pmagic.engine.attention import cross_attentions
from pmagic.engine.conditioning import packed_kv
from pmagic.engine.hooks import exchanged_attributes, exchanged_parameters, installed_hooks
from pmagic.errors import Incompatible

pytest_plugins = ["tiny"]


@pytest.fixture
def network() -> nn.Sequential:
    """Two layers; the second has no bias."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False)).double()


def add(number: float) -> tuple[object, object]:
    """A hook before a call that adds to what is given, and one after it that adds to what is answered."""
    return (
        lambda module, args, kwargs: ((args[0] + number,), kwargs),
        lambda module, args, output: output + number,
    )


def hooks_in(network: nn.Module) -> int:
    return sum(len(each._forward_pre_hooks) + len(each._forward_hooks) for each in network.modules())


def test_hooks_run_before_and_after_the_call_and_no_longer(network: nn.Sequential) -> None:
    given = torch.ones(1, 2, dtype=torch.float64)
    plain = network(given)
    before, after = add(1.0)
    with installed_hooks(before=[(network, before)], after=[(network[0], after)]):
        inside = network(given)
    assert torch.equal(inside, network[1](network[0](given + 1) + 1))
    assert torch.equal(network(given), plain)
    assert hooks_in(network) == 0


def test_an_inner_context_takes_its_own_hooks_with_it(network: nn.Sequential) -> None:
    given = torch.ones(1, 2, dtype=torch.float64)
    _, one = add(1.0)
    double = lambda module, args, output: output * 2  # noqa: E731
    with installed_hooks(after=[(network, one)]):
        with installed_hooks(after=[(network, double)]):
            with pytest.raises(ZeroDivisionError), installed_hooks(after=[(network, one), (network[0], one)]):
                raise ZeroDivisionError
            both = network(given)
        outer = network(given)
    assert torch.equal(both, (network(given) + 1) * 2)  # the outer one's first
    assert torch.equal(outer, network(given) + 1)
    assert hooks_in(network) == 0


def test_hooks_that_cannot_all_be_installed_are_all_removed(network: nn.Sequential) -> None:
    before, after = add(1.0)
    late = ((getattr(module, "to_k"), after) for module in network)  # noqa: B009 - neither has one
    with pytest.raises(AttributeError, match="to_k"), installed_hooks(before=[(network, before)], after=late):
        pytest.fail("nothing is entered")
    assert hooks_in(network) == 0


def test_an_attribute_is_exchanged_and_there_again_or_gone_again() -> None:
    class Owner:
        shared = "of the class"

    one, other = Owner(), Owner()
    own = ["of its own"]
    one.shared = own
    with exchanged_attributes([one, other], "shared", 1):
        with pytest.raises(ZeroDivisionError), exchanged_attributes([other], "shared", 2):
            assert (one.shared, other.shared) == (1, 2)
            raise ZeroDivisionError
        assert (one.shared, other.shared) == (1, 1)
    assert one.shared is own
    assert vars(other) == {} and other.shared == "of the class"


def test_parameters_are_the_same_objects_again(network: nn.Sequential) -> None:
    before = list(network.named_parameters())
    given = torch.ones(1, 2, dtype=torch.float64)
    plain, versions = network(given), [each._version for each in network.parameters()]
    zero = torch.zeros(2, 2, dtype=torch.float64)
    weights = {"1.weight": zero, "0.weight": zero}
    with exchanged_parameters(network, weights):
        assert torch.equal(network(given), torch.zeros_like(plain))
        ones = {"0.bias": torch.ones(2, dtype=torch.float64), "1.weight": torch.eye(2, dtype=torch.float64)}
        with pytest.raises(ZeroDivisionError), exchanged_parameters(network, ones):
            assert torch.equal(network(given), torch.ones_like(plain))
            raise ZeroDivisionError
        assert network[1].weight is network[0].weight is zero
        assert network[0].bias is dict(before)["0.bias"]
    after = list(network.named_parameters())
    assert [name for name, _ in after] == [name for name, _ in before]
    assert all(left is right for (_, left), (_, right) in zip(after, before, strict=True))
    assert [each._version for each in network.parameters()] == versions
    assert torch.equal(network(given), plain)


def test_nested_exchanges_of_differences_add_up(network: nn.Sequential) -> None:
    own = network[0].weight.detach().clone()
    first, second = torch.randn(2, 2, 2, dtype=torch.float64)
    with exchanged_parameters(network, {"0.weight": network[0].weight + first}):
        with exchanged_parameters(network, {"0.weight": network[0].weight + second}):
            assert torch.equal(network[0].weight, own + first + second)
        assert torch.equal(network[0].weight, own + first)
    assert torch.equal(network[0].weight, own)


def test_a_gradient_reaches_what_the_weights_were_computed_from(network: nn.Sequential) -> None:
    network.requires_grad_(False)
    difference = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    given = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
    with exchanged_parameters(network, {"1.weight": network[1].weight + difference}):
        network(given).sum().backward()
    assert torch.equal(difference.grad, network[0](given).expand(2, 2))
    assert all(each.grad is None for each in network.parameters())


@pytest.mark.parametrize(
    ("name", "shape"),
    [("1.bias", (2,)), ("2.weight", (2, 2)), ("", (2, 2)), ("0.weight.T", (2, 2)), ("0.weight", (2, 3))],
)
def test_weights_of_another_network_are_refused_before_any_is_exchanged(
    network: nn.Sequential, name: str, shape: tuple[int, ...]
) -> None:
    before = list(network.parameters())
    weights = {"0.bias": torch.zeros(2), name: torch.zeros(shape)}
    with pytest.raises(Incompatible, match="another network"), exchanged_parameters(network, weights):
        pytest.fail("nothing is entered")
    assert all(left is right for left, right in zip(network.parameters(), before, strict=True))


def test_weights_of_a_base_are_exchanged_and_it_is_the_same_base(tiny_base: loading.Base) -> None:
    unet = tiny_base.pipeline.unet
    before, hashed = list(unet.parameters()), loading.weights_hash(tiny_base.pipeline)
    with exchanged_parameters(unet, {name: each + 1 for name, each in unet.named_parameters()}):
        assert loading.weights_hash(tiny_base.pipeline) != hashed
    assert all(left is right for left, right in zip(unet.parameters(), before, strict=True))
    assert loading.weights_hash(tiny_base.pipeline) == hashed


@pytest.mark.parametrize("layout", ["sd1", "sd2"])
def test_cross_attentions_are_in_the_order_of_a_forward_pass(tiny_folders: dict[str, object], layout: str) -> None:
    unet = tiny.open_base(tiny_folders[layout]).pipeline.unet
    layers = cross_attentions(unet)
    assert len({name.partition(".")[0] for name in layers}) == 3  # down, mid and up
    assert all(unet.get_submodule(name) is module for name, module in layers.items())
    called: list[nn.Module] = []
    with (
        torch.no_grad(),
        installed_hooks(after=[(each, lambda module, *_: called.append(module)) for each in layers.values()]),
    ):
        unet(torch.zeros(1, 4, 8, 8), torch.tensor(1), encoder_hidden_states=torch.zeros(1, 3, tiny.WIDTH))
    assert [id(each) for each in called] == [id(each) for each in layers.values()]


def test_checkpointing_inside_of_checkpointing_leaves_the_outer_one_on(tiny_base: loading.Base) -> None:
    networks = (tiny_base.pipeline.unet, tiny_base.pipeline.vae)
    frozen = tiny_base.pipeline.unet.mid_block
    with memory.gradient_checkpointing(tiny_base.pipeline):
        frozen.eval()
        with pytest.raises(ZeroDivisionError), memory.gradient_checkpointing(tiny_base.pipeline):
            assert frozen.training
            raise ZeroDivisionError
        assert not frozen.training
        assert all(each.is_gradient_checkpointing and each.training for each in networks)
    assert not any(each.is_gradient_checkpointing for each in networks)
    assert not any(part.training for each in networks for part in each.modules())
    assert tiny.hooks_of(tiny_base) == []


def test_keys_and_values_are_taken_apart_once_however_deep(tiny_base: loading.Base) -> None:
    """Learning with little memory holds these hooks around each step, which installs them again."""
    unet = tiny_base.pipeline.unet
    packed: Tensor = torch.randn(1, 5, 2 * tiny.WIDTH)
    given = {"timestep": torch.tensor(5), "encoder_hidden_states": packed, "return_dict": False}
    with torch.no_grad(), packed_kv(unet):
        (once,) = unet(torch.ones(1, 4, 8, 8), **given)
        with packed_kv(unet):
            (twice,) = unet(torch.ones(1, 4, 8, 8), **given)
        (again,) = unet(torch.ones(1, 4, 8, 8), **given)
    assert torch.equal(once, twice) and torch.equal(once, again)
    assert tiny.hooks_of(tiny_base) == []
