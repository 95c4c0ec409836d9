"""CUDA graphs: a pass there and back that a GPU has seen once, given to it again as a whole.

Kernel by kernel, a step of two samples keeps the GPU waiting for the processor most of the time (`python -m tests.bench
learn --shape sd14`). Replayed are the same kernels with the same numbers.
"""

from collections.abc import Callable
from dataclasses import fields
from typing import TypeVar

import torch

from pmagic.engine.randomness import StepSample

WARM = 3  # passes before the one that is recorded, in which libraries choose their ways and fill what they keep
Answer = TypeVar("Answer")


def cuda_graphed(once: Callable[[StepSample], Answer], device: torch.device) -> Callable[[StepSample], Answer]:
    """`once` as a graph, recorded when it is first called.

    once: asks the GPU for no number, and for the same kernels at every draw; it may leave gradients. The answer's
    tensors, and the gradients, are the same ones after every call.
    """
    held: list[tuple[torch.cuda.CUDAGraph, StepSample, Answer]] = []

    def record(draw: StepSample) -> tuple[torch.cuda.CUDAGraph, StepSample, Answer]:
        still = draw.to(device)
        aside = torch.cuda.Stream(device)  # nothing may be recorded on the usual one
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            for _ in range(WARM):
                once(still)
        torch.cuda.current_stream(device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            answer = once(still)
        return graph, still, answer

    def replayed(draw: StepSample) -> Answer:
        if not held:
            held.append(record(draw))
        graph, still, answer = held[0]
        for field in fields(draw):
            getattr(still, field.name).copy_(getattr(draw, field.name))
        graph.replay()
        return answer

    return replayed
