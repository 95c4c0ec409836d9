"""The stages of a learning: from a new probe, or from an earlier one whose result was kept."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pmagic.library import probes
from pmagic.library.probes import ProbeResult
from pmagic.tasks.reporting import Reporter, duration

if TYPE_CHECKING:
    from pmagic.bases.loading import Base
    from pmagic.engine.probe import Probe
    from pmagic.engine.recipes import LearnSettings
    from pmagic.engine.subject import Subject
    from pmagic.engine.training import MakeLearner
    from pmagic.tasks.photo_input import PhotoInput

PROGRESS = "finding the stages"


def shared_inputs(photos: "PhotoInput", base: "Base", settings: "LearnSettings") -> dict[str, object]:
    """The inputs that a learning must share with `pmagic probe --name` to use its result."""
    fallback = [settings.fallback.low, settings.fallback.high]
    levels = [settings.iou_low, settings.iou_high, settings.narrowest, *fallback]
    return {**photos.inputs(), "base": base.fingerprint, "levels": levels}


def own_inputs(photos: "PhotoInput", base: "Base", settings: "LearnSettings") -> dict[str, object]:
    """The inputs of a probe inside one learning: everything that decides its bits."""
    from pmagic.engine import probe

    table = probe.probe_settings(settings).as_table()
    return {**shared_inputs(photos, base, settings), "settings": table, "compiled": base.compiled}


def find_kept(folder: Path, *inputs: Mapping[str, object]) -> ProbeResult | None:
    """The first probe result that is kept for one of `inputs`."""
    return next((found for each in inputs if (found := probes.find(folder, each)) is not None), None)


def run(
    reporter: Reporter, base: "Base", subject: "Subject", settings: "LearnSettings", title: str = PROGRESS
) -> "Probe":
    """Runs a new probe. Warns if its bounds are not the photo's own. Passes on what the reporter's progress raises."""
    from pmagic.engine import probe

    with reporter.progress(title) as advance:
        found = probe.probe(base, subject, settings, lambda done, total: advance(done, total, ""))
    warn_of_fallback(reporter, as_found(found))
    return found


def say_time(
    reporter: Reporter,
    base: "Base",
    subject: "Subject",
    settings: "LearnSettings",
    make_learner: "MakeLearner | None" = None,
) -> None:
    """Reports how long it will take, measured on a few steps that change nothing.

    make_learner: of the method that learns after the probe, None where nothing is learned.
    """
    from pmagic.engine import probe, training

    short = probe.probe_settings(settings)
    # A fifth more than the steps alone, for the attention maps at each timestep.
    probing = 1.2 * short.iterations * training.seconds_per_step(base, subject, short, probe.make_mapper)
    if make_learner is None:
        reporter.say(f"finding the stages will take about {duration(probing)}")
        return
    staged = replace(settings, bounds=short.bounds)
    learning = settings.iterations * training.seconds_per_step(base, subject, staged, make_learner)
    reporter.say(
        f"this will take about {duration(probing + learning)}: {duration(probing)} to find the stages, "
        f"{duration(learning)} to learn"
    )


def as_found(found: "Probe") -> ProbeResult:
    """The part of a probe's result that is kept."""
    return ProbeResult(found.bounds, found.curve, found.fallback_reason)


def warn_of_fallback(reporter: Reporter, found: ProbeResult) -> None:
    """Warns if the curve gave no bounds, so that the usual ones are used."""
    if found.fallback_reason:
        reporter.warn(
            f"this photo gives no stages of its own: {found.fallback_reason}; "
            f"using the usual {found.bounds.low}:{found.bounds.high} (--stages sets others)"
        )
