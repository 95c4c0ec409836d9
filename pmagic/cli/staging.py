"""Finding the stages on behalf of a command: the probe with its bar, or what an earlier one has found and kept."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pmagic.cli.console import Console, duration
from pmagic.cli.options import number
from pmagic.cli.stopping import Stopped, stop_at_step
from pmagic.errors import UsageProblem
from pmagic.library import probes
from pmagic.library.probes import Found

if TYPE_CHECKING:
    from pmagic.bases.loading import Base
    from pmagic.cli.photos import Shown
    from pmagic.engine.probe import Probe
    from pmagic.engine.recipes import LearnSettings
    from pmagic.engine.subject import Subject


def asked_inputs(shown: "Shown", base: "Base", how: "LearnSettings") -> dict[str, object]:
    """What decides whether a probe that was asked for by `pmagic probe --name` serves a learning."""
    fallback = [how.fallback.low, how.fallback.high]
    levels = [how.iou_low, how.iou_high, how.narrowest, *fallback]
    return {**shown.inputs(), "base": base.fingerprint, "levels": levels}


def own_inputs(shown: "Shown", base: "Base", how: "LearnSettings") -> dict[str, object]:
    """The same for a probe that belongs to one learning alone: all that decides its every bit."""
    from pmagic.engine import probe

    settings = probe.brief(how).as_table()
    return {**asked_inputs(shown, base, how), "settings": settings, "compiled": base.compiled}


def kept(folder: Path, *inputs: Mapping[str, object]) -> Found | None:
    """The first probe that is kept for one of `inputs`."""
    return next((found for each in inputs if (found := probes.find(folder, each)) is not None), None)


def run(console: Console, base: "Base", subject: "Subject", how: "LearnSettings", what: str) -> "Probe":
    """The probe with a bar; stopped by the person it ends in `Stopped`. Warns of bounds that are not its own."""
    from pmagic.engine import probe

    with stop_at_step() as check, console.progress("finding the stages") as advance:

        def on_step(done: int, total: int) -> None:
            advance(done, total, "")
            check()

        try:
            found = probe.probe(base, subject, how, on_step)
        except KeyboardInterrupt as stop:
            raise Stopped(f"{what} was stopped while finding its stages", "run the same command again") from stop
    warn_of_fallback(console, as_found(found))
    return found


def tell_time(console: Console, base: "Base", subject: "Subject", how: "LearnSettings", *, with_learning: bool) -> None:
    """How long it will take, from a few steps that change nothing."""
    from pmagic.engine import probe, training

    short = probe.brief(how)
    looking = 1.2 * short.iterations * training.seconds_per_step(base, subject, short)  # and a look at each timestep
    if not with_learning:
        console.say(f"finding the stages will take about {duration(looking)}")
        return
    learning = how.iterations * training.seconds_per_step(base, subject, replace(how, bounds=short.bounds))
    console.say(
        f"this will take about {duration(looking + learning)}: {duration(looking)} to find the stages, "
        f"{duration(learning)} to learn"
    )


def as_found(found: "Probe") -> Found:
    return Found(found.bounds, found.curve, found.fell_back)


def warn_of_fallback(console: Console, found: Found) -> None:
    if found.fell_back:
        console.warn(
            f"no stages of its own are found for this photo: {found.fell_back}; "
            f"the usual {found.bounds.low}:{found.bounds.high} are taken (--stages sets others)"
        )


def parse(text: str | None) -> tuple[int, int] | None:
    """`400:800` -> (400, 800); whether the numbers can be bounds is the recipe's to say."""
    if text is None:
        return None
    low, high = (number(each) for each in text.partition(":")[::2])
    if low is None or high is None:
        raise UsageProblem(f"--stages cannot be {text[:80]!r}", "write it as LOW:HIGH, for example 400:800")
    return low, high
