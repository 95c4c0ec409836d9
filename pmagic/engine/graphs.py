"""CUDA graphs: a forward and backward pass that is captured once and then replayed as a whole.

Launched kernel by kernel, a step of two samples leaves the GPU waiting for the CPU most of the time (`python -m
tests.bench learn --shape sd14`). A replay runs the same kernels with the same results.
"""

from collections.abc import Callable
from dataclasses import fields
from typing import TypeVar

import torch

from pmagic.engine.randomness import StepSample

WARM = 3  # warm-up passes before the capture, in which libraries choose algorithms and fill their caches
Answer = TypeVar("Answer")


def cuda_graphed(once: Callable[[StepSample], Answer], device: torch.device) -> Callable[[StepSample], Answer]:
    """`once` as a CUDA graph, captured on the first call.

    once: must not read values back from the GPU, and must launch the same kernels for every sample; it may leave
    gradients. The returned tensors, and the gradients, are the same objects after every call.
    """
    held: list[tuple[torch.cuda.CUDAGraph, StepSample, Answer]] = []

    def record(draw: StepSample) -> tuple[torch.cuda.CUDAGraph, StepSample, Answer]:
        still = draw.to(device)
        aside = torch.cuda.Stream(device)  # the default stream cannot be captured
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            for _ in range(WARM):
                once(still)
        torch.cuda.current_stream(device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            answer = once(still)
        return graph, still, answer

    def replay(draw: StepSample) -> Answer:
        if not held:
            held.append(record(draw))
        graph, still, answer = held[0]
        for field in fields(draw):
            getattr(still, field.name).copy_(getattr(draw, field.name))
        graph.replay()
        return answer

    return replay
