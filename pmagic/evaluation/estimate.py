"""An estimate of the remaining work. A few real steps are timed and their results discarded."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pmagic import methods
from pmagic.engine import probe, rendering, training
from pmagic.engine.recipes import RenderSettings
from pmagic.errors import PhotoRefused
from pmagic.evaluation import metrics
from pmagic.evaluation.eval_config import FACE
from pmagic.evaluation.eval_context import EvalContext
from pmagic.evaluation.harness import Failure, Task, failure
from pmagic.evaluation.subject_run import SubjectRun, is_done
from pmagic.persona import REFERENCE_BOUNDS
from pmagic.pictures import encode_image

SHORT, LONGER = 2, 4  # sampler steps of the two trial renderings


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Upper bounds: work that two variants of a subject share is counted for each of them."""

    people: int
    learnings: int
    pictures: int
    seconds: float  # with one worker
    bytes: int
    failures: dict[int, Failure]  # subjects tried first, without a usable photo; not counted above


def estimate(context: EvalContext, todo: Sequence[Task]) -> Estimate:
    """Measured on the first usable subject: per variant two learning steps, two short renderings, one scoring."""
    config = context.config
    learnings = pictures = size = 0
    seconds = 0.0
    run, failures = _first(context, todo)
    if run is None:
        return Estimate(people=0, learnings=0, pictures=0, seconds=0.0, bytes=0, failures=failures)
    todo = [task for task in todo if task.who.number not in failures]
    for variant in context.variants:
        waiting = sum(not is_done(task.kept, [variant.key]) for task in todo)
        if not waiting:
            continue
        bounds = variant.learn.bounds or REFERENCE_BOUNDS
        settings = replace(variant.learn, bounds=bounds)
        method = methods.take(variant.method)
        step = training.seconds_per_step(context.base, run.subject, settings, method.make_learner)
        learn = step * settings.iterations
        if variant.learn.bounds is None:
            short = probe.probe_settings(settings)
            step = training.seconds_per_step(context.base, run.subject, short, probe.make_mapper)
            learn += 1.2 * short.iterations * step
        each, shared, png = _drawing(context, run, variant.render, bounds.high)
        learnings += waiting
        pictures += waiting * len(config.prompts) * config.pictures
        seconds += waiting * (learn + each * len(config.prompts)) + shared * len(config.prompts)
        persona = methods.persona_bytes(method, context.base.spec, settings)
        size += waiting * (persona + len(config.prompts) * config.pictures * png)
    return Estimate(
        people=len(todo), learnings=learnings, pictures=pictures, seconds=seconds, bytes=size, failures=failures
    )


def _first(context: EvalContext, todo: Sequence[Task]) -> tuple[SubjectRun | None, dict[int, Failure]]:
    """The first subject with usable photos (None if there is no such subject), and the failures of those before it."""
    failures: dict[int, Failure] = {}
    for task in todo:
        try:
            run = SubjectRun(context=context, who=task.who.load_photos(), kept={})
            run.require_photos()
        except PhotoRefused as problem:
            failures[task.who.number] = failure(problem)
        else:
            return run, failures
    return None, failures


def _drawing(context: EvalContext, run: SubjectRun, settings: RenderSettings, high: int) -> tuple[float, float, int]:
    """The cost of one prompt: seconds per subject, seconds of the steps that all subjects share, bytes of a picture."""
    config = context.config
    seeds = [config.seed + k for k in range(config.pictures)]
    times, drawn = [], []
    for steps in (SHORT, LONGER):
        start = time.monotonic()
        drawn = rendering.render(
            context.base, None, config.prompts[0], seeds, replace(settings, steps=steps), word=FACE
        )
        times.append(time.monotonic() - start)
    step = max(0.0, (times[1] - times[0]) / (LONGER - SHORT))
    start = time.monotonic()
    metrics.measure(context.observers, run.make_sample(drawn, 0))
    rest = max(0.0, times[0] - SHORT * step) + time.monotonic() - start
    shared = sum(t >= high for t in rendering.timesteps(context.base, settings))
    return (
        rest + step * (settings.steps - shared),
        step * shared,
        max(len(encode_image(each, "png", {})) for each in drawn),
    )
