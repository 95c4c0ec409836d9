"""An estimate of what is still to be done, from a few steps that are really taken and thrown away."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pmagic.engine import mapper, probe, rendering, sentences, training
from pmagic.engine.recipes import LearnSettings, RenderSettings
from pmagic.errors import PhotoRefused
from pmagic.evaluation import metrics
from pmagic.evaluation.bench import Bench
from pmagic.evaluation.harness import Failure, Task, failure
from pmagic.evaluation.order import FACE
from pmagic.evaluation.sitting import Sitting, is_done
from pmagic.persona import REFERENCE_BOUNDS
from pmagic.pictures import encoded

SHORT, LONGER = 2, 4  # sampler steps of the two trial drawings
PERSONA_FIXED = 20_000  # bytes of a persona besides its weights


@dataclass(frozen=True)
class Estimate:
    """At most: what turns out to be shared between variants of a person is counted for each."""

    people: int
    learnings: int
    pictures: int
    seconds: float  # of one worker
    bytes: int
    failures: dict[int, Failure]  # of the people who were tried first and have no usable photo; they count nowhere else


def estimate(bench: Bench, todo: Sequence[Task]) -> Estimate:
    """From the first person who can be learned: two learning steps of each variant, two short drawings, one scoring."""
    order = bench.order
    learnings = pictures = size = 0
    seconds = 0.0
    sitting, failures = _first(bench, todo)
    if sitting is None:
        return Estimate(0, 0, 0, 0.0, 0, failures)
    todo = [task for task in todo if task.who.number not in failures]
    for variant in bench.variants:
        waiting = sum(not is_done(task.kept, [variant.key]) for task in todo)
        if not waiting:
            continue
        how = replace(variant.learn, bounds=variant.learn.bounds or REFERENCE_BOUNDS)
        step = training.seconds_per_step(bench.base, sitting.subject, how)
        learn = step * how.iterations
        if variant.learn.bounds is None:
            learn += (
                1.2 * how.probe_iterations * training.seconds_per_step(bench.base, sitting.subject, probe.brief(how))
            )
        each, shared, png = _drawing(bench, sitting, variant.render, how.bounds.high)
        learnings += waiting
        pictures += waiting * len(order.prompts) * order.pictures
        seconds += waiting * (learn + each * len(order.prompts)) + shared * len(order.prompts)
        size += waiting * (_persona_bytes(bench, sitting, how) + len(order.prompts) * order.pictures * png)
    return Estimate(len(todo), learnings, pictures, seconds, size, failures)


def _first(bench: Bench, todo: Sequence[Task]) -> tuple[Sitting | None, dict[int, Failure]]:
    """The first person whose photos can be used, None without one; and why those before cannot be."""
    failures: dict[int, Failure] = {}
    for task in todo:
        try:
            sitting = Sitting(bench, task.who.brought(), {})
            sitting.require_photos()
        except PhotoRefused as problem:
            failures[task.who.number] = failure(problem)
        else:
            return sitting, failures
    return None, failures


def _drawing(bench: Bench, sitting: Sitting, how: RenderSettings, high: int) -> tuple[float, float, int]:
    """Seconds of a prompt's pictures for each person and, once, of the steps that people share; bytes of a picture."""
    order = bench.order
    seeds = [order.seed + k for k in range(order.pictures)]
    times, drawn = [], []
    for steps in (SHORT, LONGER):
        start = time.monotonic()
        drawn = rendering.render(bench.base, None, order.prompts[0], seeds, replace(how, steps=steps), word=FACE)
        times.append(time.monotonic() - start)
    step = max(0.0, (times[1] - times[0]) / (LONGER - SHORT))
    start = time.monotonic()
    metrics.measured(bench.observers, sitting.case(drawn, 0))
    rest = max(0.0, times[0] - SHORT * step) + time.monotonic() - start
    shared = sum(t >= high for t in rendering.timesteps(bench.base, how))
    return rest + step * (how.steps - shared), step * shared, max(len(encoded(each, "png", {})) for each in drawn)


def _persona_bytes(bench: Bench, sitting: Sitting, how: LearnSettings) -> int:
    word = sentences.word_embedding(bench.base, FACE)
    learner = mapper.fresh(word, sitting.subject.image_embedding, how)
    return PERSONA_FIXED + 4 * sum(weight.numel() for weight in learner.parameters())
