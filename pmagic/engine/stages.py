"""Stages: which embeddings stand for the name at each step of a sampler (paper, Sec. 3.1)."""

from collections.abc import Sequence

from pmagic.persona import Stage, StageBounds


def dynamic_sources(timesteps: Sequence[float], bounds: StageBounds) -> list[float | None]:
    """For each timestep, in sampling order (falling): the t whose dynamic tokens are used, None for the plain word.

    Below the interval the last dynamic step's t is reused; a sampler so coarse that it jumps over the whole
    interval reuses `bounds.low`, the t nearest to where it lands.
    """
    sources: list[float | None] = []
    last = float(bounds.low)
    for t in timesteps:
        stage = bounds.stage(t)
        if stage is Stage.DYNAMIC:
            last = float(t)
        sources.append(None if stage is Stage.FIRST_STATIC else last)
    return sources
