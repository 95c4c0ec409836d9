"""A resumable training: AdamW, a cosine schedule over a budget of minutes, averaged weights, state as safetensors.

Under torchrun each process takes a share of the batch, and the gradients are averaged. On a busy machine two processes
with one thread each are faster than one process with two threads, which wait for each other at every operation.
"""

import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar, cast

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

SAVE_EVERY = 120.0  # seconds
LONGEST_STEP = 5.0  # seconds; a longer step was a paused process or an evaluation, and does not count as training
WARMUP = 0.02  # share of the budget in which the learning rate rises
CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_forced: list[torch.dtype] = []


def force_dtype(name: str) -> None:
    """Compute in this type from now on, instead of in the type that a measurement finds faster on this machine.

    Each process measures for itself whether bfloat16 is faster, and results may differ on a busy machine.
    """
    _forced[:] = [DTYPES[name]]


def uses_bfloat16(place: torch.device = CPU) -> bool:
    """Whether to compute in bfloat16: set by `force_dtype`, or else measured."""
    if _forced:
        return _forced[0] == torch.bfloat16
    return bfloat16_pays() if place == CPU else torch.cuda.is_bf16_supported(including_emulation=False)


@cache
def bfloat16_pays() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32, by measurement: emulated it is much slower."""
    seconds = []
    for kind in (torch.float32, torch.bfloat16):
        a = torch.randn(512, 512).to(kind)
        times = []
        for _ in range(4):
            start = time.perf_counter()
            _ = a @ a
            times.append(time.perf_counter() - start)
        seconds.append(min(times))
    return seconds[1] < seconds[0]


def autocast(place: torch.device = CPU) -> torch.autocast:
    """Autocast to bfloat16 if it is faster or forced; otherwise disabled."""
    return torch.autocast(place.type, torch.bfloat16, enabled=uses_bfloat16(place))


def join() -> None:
    """Join the other processes if torchrun started several."""
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("gloo")


def rank() -> int:
    """This process's rank; process 0 prints and saves the state."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


Network = TypeVar("Network", bound=nn.Module)


def in_memory_order(network: Network, order: torch.memory_format) -> Network:
    """The network with its weights in this memory order. torch's annotation of `to` also requires a dtype or device."""
    return cast(Any, network).to(memory_format=order)


class Run(Generic[Network]):
    """Trains `model` for `minutes` of its own running time, over any number of starts.

    The averaged weights (`Run.average`) are usable whenever it stops. Its state is `folder/<name>.safetensors`, and its
    printed values are also stored as JSON lines in `folder/<name>.jsonl`.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        model: Network,
        minutes: float,
        rate: float,
        decay: float = 0.998,
        shares: Mapping[str, float] = MappingProxyType({}),
        total_steps: int | None = None,
    ):
        """shares: of the learning rate, by prefix of the weights' names; 1 for all others.

        total_steps: the budget in steps instead of minutes, for a machine whose speed varies.
        """
        self.file = folder / f"{name}.safetensors"
        self.name, self.model, self.seconds, self.rate = name, model, minutes * 60, rate
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
        groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
        for key, weight in model.named_parameters():
            share = next((share for start, share in shares.items() if key.startswith(start)), 1.0)
            groups[share, 0.01 if weight.ndim > 1 else 0.0].append(weight)
        self.optimizer = torch.optim.AdamW(
            [{"params": each, "share": share, "weight_decay": decay} for (share, decay), each in groups.items()],
            lr=rate, betas=(0.9, 0.98), fused=True,
        )  # fmt: skip
        self.steps, self.spent, self.total_steps = 0, 0.0, total_steps
        if self.file.exists():
            self._read()
        self._tick = self._saved = time.monotonic()
        self._kept = self.steps  # the number of steps in the saved file
        self._loss: dict[str, Tensor] = {}

    @property
    def average(self) -> Network:
        return cast(Network, self.averaged.module)

    @property
    def share(self) -> float:
        """The share of the budget that is used, 0 to 1."""
        return min(1.0, self.steps / self.total_steps if self.total_steps else self.spent / self.seconds)

    @property
    def kept_now(self) -> bool:
        """Whether the file holds the state of the last step."""
        return self.steps == self._kept

    @property
    def going(self) -> bool:
        if self.share >= 1.0 and self.steps > self._kept:
            self.save()
        return self.share < 1.0

    def step(
        self, losses: Mapping[str, Tensor], beside: Mapping[str, Tensor] = MappingProxyType({}), report_every: int = 250
    ) -> None:
        """One optimizer step on the sum of `losses` (scalars, already weighted); `beside` is only reported."""
        self.optimizer.zero_grad(set_to_none=True)
        cast(Tensor, sum(losses.values())).backward()
        now = time.monotonic()
        self.spent, self._tick = self.spent + min(now - self._tick, LONGEST_STEP), now
        self._agree()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        falling = 0.5 * (1 + math.cos(math.pi * self.share))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * group["share"] * min(1.0, (self.share + 1e-3) / WARMUP) * max(falling, 0.01)
        self.optimizer.step()
        self.averaged.update_parameters(self.model)
        self.steps += 1
        for key, value in {**losses, **beside}.items():
            value = value.detach()  # converted to a number only when printed: that would wait for a GPU
            self._loss[key] = 0.98 * self._loss.get(key, value) + 0.02 * value
        if self.steps % report_every == 0 and rank() == 0:
            loss = {key: value.item() for key, value in self._loss.items()}
            told = "  ".join(f"{k} {v:.5f}" for k, v in loss.items())
            print(f"{self.name}  step {self.steps}  {self.spent / 60:.1f} min ({self.share:.1%})  {told}", flush=True)
            with self.file.with_suffix(".jsonl").open("a") as kept:
                kept.write(json.dumps({"step": self.steps, "minutes": self.spent / 60, **loss}) + "\n")
        if now - self._saved > SAVE_EVERY:
            self.save()

    def _agree(self) -> None:
        """Average the gradients and the time over all processes, if there are several."""
        if not dist.is_initialized():
            return
        slopes = [p.grad for p in self.model.parameters() if p.grad is not None]
        shared = torch.cat([*(slope.reshape(-1) for slope in slopes), torch.tensor([self.spent])])
        dist.all_reduce(shared)
        shared /= dist.get_world_size()
        self.spent = float(shared[-1])
        for slope, mean in zip(slopes, shared[:-1].split([each.numel() for each in slopes]), strict=True):
            # In place: the fused optimizer misreads a gradient whose memory order differs from its weight's.
            slope.copy_(mean.view_as(slope))

    def save(self) -> None:
        """Write weights, average and moments atomically: the last file stays complete if the run is stopped."""
        if rank():
            self._saved, self._kept = time.monotonic(), self.steps
            return
        moments = {f"{i}.{k}": v for i, each in self.optimizer.state_dict()["state"].items() for k, v in each.items()}
        story = {"steps": self.steps, "spent": self.spent, "averaged": int(self.averaged.n_averaged)}
        write_state(self.file, self.model.state_dict(), self.average.state_dict(), moments, story)
        self._saved, self._kept = time.monotonic(), self.steps

    def _read(self) -> None:
        with safe_open(self.file, "pt") as file:
            story = json.loads(file.metadata()["run"])
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  (a safe_open file is no mapping)
        part = lambda head: {k.removeprefix(head): v for k, v in tensors.items() if k.startswith(head)}  # noqa: E731
        self.model.load_state_dict(part("model."))
        self.average.load_state_dict(part("average."))
        state = self.optimizer.state_dict()
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        for key, value in part("moments.").items():
            i, kind = key.split(".", 1)
            if value.ndim:  # the fused optimizer reads weight and moments side by side, whatever their memory order
                value = torch.empty_like(weights[int(i)], requires_grad=False).copy_(value)
            state["state"].setdefault(int(i), {})[kind] = value
        self.optimizer.load_state_dict(state)
        self.averaged.n_averaged.fill_(story["averaged"])
        self.steps, self.spent = story["steps"], story["spent"]


def write_state(
    file: Path, model: dict[str, Tensor], average: dict[str, Tensor], moments: dict[str, Tensor], story: dict
) -> None:
    """Write a run's state atomically. Without moments the optimizer starts from zero."""
    tensors = {f"model.{k}": v for k, v in model.items()}
    tensors |= {f"average.{k}": v for k, v in average.items()}
    tensors |= {f"moments.{k}": v for k, v in moments.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, fresh, {"run": json.dumps(story)})
    os.replace(fresh, file)
