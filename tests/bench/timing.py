"""Timing: arms alternate in one process in the order A B B A, so that other load affects them equally."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.arms import Arm


@dataclass(frozen=True)
class Cost:
    """The cost of one run. wall: seconds passed. busy: processor seconds on a CPU, the same as wall elsewhere."""

    wall: float
    busy: float


@dataclass(frozen=True)
class Ratio:
    """The ratio of B's time to A's over pairs: above 1, A is faster."""

    median: float
    low: float
    high: float


def run(arm: Arm, device: torch.device) -> Cost:
    with arm.within():
        if device.type == "cuda":
            torch.cuda.synchronize()
        wall, busy = time.perf_counter(), time.process_time()
        arm.run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        passed, worked = time.perf_counter() - wall, time.process_time() - busy
    return Cost(passed, worked if device.type == "cpu" else passed)


def compared(a: Arm, b: Arm, pairs: int, device: torch.device) -> tuple[list[Cost], list[Cost]]:
    """`pairs` costs of each arm, after a warm-up of both; every second pair begins with b."""
    run(a, device), run(b, device)
    costs: tuple[list[Cost], list[Cost]] = ([], [])
    for number in range(pairs):
        order = ((0, a), (1, b)) if number % 2 == 0 else ((1, b), (0, a))
        for which, arm in order:
            costs[which].append(run(arm, device))
    return costs


def ratio(a: Sequence[Cost], b: Sequence[Cost]) -> Ratio:
    found = [each_b.busy / each_a.busy for each_a, each_b in zip(a, b, strict=True)]
    return Ratio(statistics.median(found), min(found), max(found))


def flops(arm: Arm) -> int:
    """The FLOPs of one run; a multiply-add counts as two."""
    with arm.within(), FlopCounterMode(display=False) as counter:
        (arm.counted or arm.run)()
    return counter.get_total_flops()


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product, the best of five."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = Arm(lambda: a @ b)
    return 2 * side**3 / min(run(product, device).busy for _ in range(5))


def highest(device: torch.device) -> int:
    """Peak bytes in use since the last call: of the allocator on a GPU, else of the whole process (Linux)."""
    if device.type == "cuda":
        found = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return found
    (line,) = (each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return int(line.split()[1]) * 1024
