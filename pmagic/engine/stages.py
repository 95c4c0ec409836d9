"""Stages: which embeddings stand for the name at each step of a sampler (paper, Sec. 3.1)."""

from collections.abc import Sequence

from pmagic.persona import Stage, StageBounds


def dynamic_sources(timesteps: Sequence[float], bounds: StageBounds) -> list[float | None]:
    """For each timestep, in sampling order (falling): the t whose dynamic tokens are used, or None for the plain word.

    Below the interval, the last t inside it is used again. If a coarse sampler skips the whole interval, `bounds.low`
    is used, the t of the interval nearest to the timesteps below it.
    """
    sources: list[float | None] = []
    last = float(bounds.low)
    for t in timesteps:
        stage = bounds.stage(t)
        if stage is Stage.DYNAMIC:
            last = float(t)
        sources.append(None if stage is Stage.FIRST_STATIC else last)
    return sources
