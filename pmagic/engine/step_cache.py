"""Step cache: above the dynamic stage nothing depends on the persona, so all personas in one scene share those steps.

The UNet computes each input once; later pictures that begin in the same way reuse its output. The pictures are equal
bit for bit with every sampler, because its own loop runs as if the UNet had computed.
"""

# N rows . S text positions . w text width . C, h, w of the latents

import functools
import hashlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from pmagic.engine import image_attention
from pmagic.engine.hooks import exchanged_attributes

# For every parameter and buffer of a network: its memory, its layout, and torch's count of writes to it.
WeightsId = tuple[Any, ...]


class UNetCache:
    """Outputs of UNets, by the identity of their weights and by a digest of all inputs.

    Outputs (N, C, h, w) are kept as long as the weights that computed them are in memory.
    """

    def __init__(self) -> None:
        self._answers: dict[WeightsId, dict[bytes, Tensor]] = {}
        # Freed memory may be reused at the same address. A weak reference keeps its identifier from being reused,
        # and tells whether the memory was freed.
        self._memory: dict[WeightsId, list[StorageWeakRef]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._answers.values()))

    def answers(self, unet: nn.Module) -> dict[bytes, Tensor]:
        """The cached outputs of `unet` with its current weights; the caller reads and extends the dict."""
        weights = _weights(unet)
        found = _weights_id(weights)
        if found not in self._answers:
            self._forget_freed()
            self._answers[found] = {}
            self._memory[found] = [StorageWeakRef(each.untyped_storage()) for each in weights if each is not None]
        return self._answers[found]

    def _forget_freed(self) -> None:
        for weights in [each for each, memory in self._memory.items() if any(one.expired() for one in memory)]:
            del self._answers[weights], self._memory[weights]


@contextmanager
def cached_first_steps(unet: nn.Module, cache: UNetCache, since: float) -> Iterator[None]:
    """While inside, a UNet call at t >= `since` is computed only if `cache` does not hold its output yet.

    An output belongs to all arguments, to the weights at the time of the call, and to the looks that cross-attention
    reads (image_attention). Other hooks and attention processors are not compared; those used with one cache must
    compute the same. Writes that torch does not count, through `Tensor.data` or by a fused optimizer, are not noticed.
    Calls with gradients enabled are always computed.
    since: the t at which the first static stage ends. cache: grows by 2 N C h w values per step.
    Raises TypeError for an argument that cannot be compared bit for bit.
    """
    compute = unet.forward
    signature = inspect.signature(compute)

    @functools.wraps(compute)
    def compute_or_reuse(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        arguments = dict(given.arguments)
        if torch.is_grad_enabled() or float(torch.as_tensor(arguments["timestep"]).min()) < since:
            return compute(*args, **kwargs)
        as_dict = arguments.pop("return_dict")
        answers, question = cache.answers(unet), _digest({**arguments, "looks": image_attention.active(unet)})
        if question not in answers:
            (answers[question],) = compute(**arguments, return_dict=False)
        return _output(answers[question].clone(), as_dict=as_dict)

    with exchanged_attributes([unet], "forward", compute_or_reuse):
        yield


def _output(answer: Tensor, *, as_dict: bool) -> Any:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

    return UNet2DConditionOutput(sample=answer) if as_dict else (answer,)


def _weights(network: nn.Module) -> list[Tensor | None]:
    """Parameters and buffers. `Module.parameters` also removes duplicates and builds names, which is 5 times slower."""
    found: list[Tensor | None] = []
    waiting = [network]
    while waiting:
        module = waiting.pop()
        found += module._parameters.values()
        found += module._buffers.values()
        waiting += [each for each in module._modules.values() if each is not None]
    return found


def _weights_id(weights: list[Tensor | None]) -> WeightsId:
    return tuple(
        each
        if each is None
        else (
            each.untyped_storage()._cdata,
            each.storage_offset(),
            each.shape,
            each.stride(),
            each.dtype,
            each._version,
        )
        for each in weights
    )


def _digest(arguments: Mapping[str, Any]) -> bytes:
    total = hashlib.blake2b(digest_size=32)
    _add(total, arguments)
    return total.digest()


def _add(total: "hashlib.blake2b", value: Any) -> None:
    """Add a value bit for bit. Its type and length are added, too, so that no two values have the same encoding."""
    if isinstance(value, Tensor):
        total.update(repr((value.dtype, value.shape, value.stride(), value.device)).encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        total.update(f"mapping of {len(value)};".encode())
        for key in sorted(value):
            _add(total, key)
            _add(total, value[key])
    elif isinstance(value, list | tuple):
        total.update(f"sequence of {len(value)};".encode())
        for each in value:
            _add(total, each)
    elif value is None or isinstance(value, bool | int | float | str):
        total.update(f"{type(value).__name__} {value!r};".encode())
    else:
        raise TypeError(f"the step cache cannot compare an argument of type {type(value).__name__}")
