"""Which base a command works on, and what is told about it before a long job."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from pmagic import settings
from pmagic.cli.console import Console, duration
from pmagic.errors import UsageProblem, WeightsMissing

if TYPE_CHECKING:
    from pmagic.bases.card import Card
    from pmagic.bases.loading import Base
    from pmagic.engine.recipes import LearnSettings
    from pmagic.engine.subject import Subject

DEFAULT = "sd14"
DEMO = "mini"
MEMORY = ("auto", "low", "normal")
LOW = ", with less kept and more computed again"


def choose_base(asked: str | None) -> "Card":
    """--base, or config.toml's, or Stable Diffusion 1.4 where it is; its weights are on this machine."""
    from pmagic.bases import card

    name = asked if asked is not None else settings.config().base
    if name is not None:
        return card.require_weights(card.find(name))
    found = card.find(DEFAULT)
    if found.folder is not None:
        return card.require_weights(found)
    raise WeightsMissing(
        f"no base is chosen, and the default {DEFAULT} is not on this machine; with what learning needs besides it is "
        f"{found.download_gb:.1f} GB",
        f"for photographs fetch it with {card.pulls(found)}; to try pmagic at once, on drawn faces "
        f"only, add `--base {DEMO}`",
    )


def device(asked: str | None) -> str:
    """--device, or what the settings say; it is on this machine. UsageProblem names the place that says it."""
    from pmagic.bases import loading

    if asked is not None:
        loading.device_named(asked)
        return asked
    name = settings.config().device
    try:
        loading.device_named(name)
    except UsageProblem as problem:
        place = settings.origin("device")
        raise UsageProblem(
            f"{place}: {problem.what}", f"{settings.mending('device', place)}, or add --device cpu"
        ) from problem
    return name


def check_numbers(device: str | None, dtype: str) -> None:
    """UsageProblem for a --device or a --dtype that can be none; needs no torch."""
    if device is not None:
        settings.check_device(device)
    else:
        settings.config()  # names the file or the variable
    if dtype not in ("auto", *settings.NUMBER_TYPES):
        raise UsageProblem(
            f"there is no number type {dtype!r}", f"choose one of: auto, {', '.join(settings.NUMBER_TYPES)}"
        )


def check_memory(asked: str) -> None:
    if asked not in MEMORY:
        raise UsageProblem(f"--memory cannot be {asked!r}", f"choose one of: {', '.join(MEMORY)}")


def learn_low(console: Console, needed: Callable[..., int], asked: str, place: str) -> bool:
    """Whether a learning does with less memory: as asked, or where `auto` finds too little free.

    Tells how much it takes, and warns where the device has less. needed: `memory_to_learn` of this learning, which
    takes `low` alone. place: as `--device` has it.
    """
    free = _free(place)
    usual = needed()
    low = asked == "low" or (asked == "auto" and free is not None and free < usual)
    wanted = needed(low=low)
    console.say(f"memory: about {gigabytes(wanted)} besides the program's own{LOW if low else ''}")
    if free is not None and free < wanted:
        console.warn(f"this takes about {gigabytes(wanted)} of memory, {gigabytes(free)} are free")
    return low


def memory_to_learn(card: "Card", how: "LearnSettings", place: str, dtype: str, *, low: bool = False) -> int:
    """Bytes, roughly, as needs.memory_to_learn, with the base opened on that device in that type."""
    from pmagic.bases import loading, needs

    fast = loading.fast_type(loading.device_named(place)) if dtype == "auto" else loading.DTYPES.get(dtype)
    half = fast is not None and fast.itemsize == 2
    return needs.memory_to_learn(card, how.batch, half=half, low=low, decodes=how.looks_at_faces)


def compiled(console: Console, base: "Base", subject: "Subject", how: "LearnSettings") -> "Base":
    """The base with its UNet compiled for this learning; tells what that took and brings, and warns if it does not pay.

    Raises UsageProblem where this machine cannot compile, or compiles to what is wrong.
    """
    from pmagic.engine import compiling, probe, training

    short = probe.brief(how)  # a step whose losses are quickly had; the UNet is asked the same
    before = training.seconds_per_step(base, subject, short, measured=1.0)
    console.say("compiling the UNet: minutes the first time, seconds where this machine has done it before")
    own, start = training.slope(base, subject, short), time.monotonic()
    base = replace(base, compiled=True)
    with compiling.possible():
        after = training.seconds_per_step(base, subject, short, measured=1.0)
        compiling.require_slope(own, training.slope(base, subject, short))
    took = time.monotonic() - start
    steps = how.iterations + (how.probe_iterations if how.bounds is None else 0)
    brings = steps * (before - after)
    told = f"a step takes {after:.2g} s instead of {before:.2g}: {duration(max(brings, 0))} less in {steps} steps"
    console.say(f"compiled in {duration(took)}; {told}")
    if brings < took:
        console.warn(f"for this learning alone, --compile does not pay: it took {duration(took)}; {told}")
    return base


def _free(place: str) -> int | None:
    """Bytes free where the models will be: on the first GPU, or else in the machine."""
    import torch

    from pmagic.bases import needs

    if place.partition(":")[0] in ("auto", "cuda") and torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return needs.memory_free()


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.2g} GB"
