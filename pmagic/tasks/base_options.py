"""The base, device and memory of a task, and what to report about them before a long task."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

from pmagic import settings
from pmagic.errors import UsageError, WeightsMissing
from pmagic.tasks import opened_bases
from pmagic.tasks.reporting import Reporter, duration

if TYPE_CHECKING:
    from pmagic.bases.loading import Base
    from pmagic.bases.model_spec import ModelSpec
    from pmagic.engine.recipes import LearnSettings
    from pmagic.engine.subject import Subject
    from pmagic.engine.training import MakeLearner
    from pmagic.methods import Method

DEFAULT = "sd14"
DEMO = "mini"
SEEDS = 2**32  # number of different seeds for a picture
Memory = Literal["auto", "low", "normal"]
MEMORY: tuple[Memory, ...] = get_args(Memory)
LOW = ", keeping less and computing more again"


def resolve_base(base: "Base | str | None") -> "ModelSpec":
    """The spec of an opened base, or of the named or configured one. Its weights must be on this machine."""
    return choose_base(base) if base is None or isinstance(base, str) else base.spec


def open_base(base: "Base | str | None", spec: "ModelSpec", device: str, dtype: str) -> "Base":
    """The base itself if it is open already. Else opens the base of the spec and remembers where it is."""
    from pmagic.bases import local_bases

    if base is not None and not isinstance(base, str):
        return base
    opened = opened_bases.open_base(spec, device=device, dtype=dtype)
    local_bases.remember(spec, opened.fingerprint)
    return opened


def choose_base(name: str | None) -> "ModelSpec":
    """The base of that name, or of config.toml, or Stable Diffusion 1.4. Its weights must be on this machine."""
    from pmagic.bases import model_spec

    name = name if name is not None else settings.config().base
    if name is not None:
        return model_spec.require_weights(model_spec.resolve(name))
    spec = model_spec.resolve(DEFAULT)
    if spec.folder is not None:
        return model_spec.require_weights(spec)
    raise WeightsMissing(
        f"no base is chosen, and the default {DEFAULT} is not on this machine; with all that learning needs it takes "
        f"{spec.download_gb:.1f} GB",
        f"for photographs download it with {model_spec.pulls(spec)}; to try pmagic at once, on drawn faces "
        f"only, add `--base {DEMO}`",
    )


def device(name: str | None) -> str:
    """The device of --device or of the settings. Raises UsageError, naming the setting, if it is not there."""
    from pmagic.bases import loading

    if name is not None:
        loading.find_device(name)
        return name
    name = settings.config().device
    try:
        loading.find_device(name)
    except UsageError as problem:
        place = settings.origin("device")
        raise UsageError(
            f"{place}: {problem.what}", f"{settings.suggest_fix('device', place)}, or add --device cpu"
        ) from problem
    return name


def check_numbers(device: str | None, dtype: str) -> None:
    """Raises UsageError for an impossible --device or --dtype. Needs no torch."""
    if device is not None:
        settings.check_device(device)
    else:
        settings.config()  # its error names the file or the variable
    if dtype not in ("auto", *settings.NUMBER_TYPES):
        raise UsageError(
            f"there is no number type {dtype!r}", f"choose one of: auto, {', '.join(settings.NUMBER_TYPES)}"
        )


def check_memory(memory: str) -> None:
    if memory not in MEMORY:
        raise UsageError(f"--memory cannot be {memory!r}", f"choose one of: {', '.join(MEMORY)}")


def check_seed(seed: int) -> None:
    """Raises UsageError for a seed that learning cannot use."""
    if not 0 <= seed < 2**63:
        raise UsageError(f"--seed must be 0 or more and below 2^63, not {seed}", "give for example --seed 1")


def check_seeds(first: int, count: int) -> None:
    """Raises UsageError for seeds that pictures cannot use: on a CPU, which draws the noise, torch reads 32 bits."""
    if first < 0 or first + count > SEEDS:
        same = first % SEEDS + count <= SEEDS  # or some of them would still be too large
        advice = (
            f"give --seed {first % SEEDS}, which draws the same" if same and first > 0 else "give for example --seed 1"
        )
        raise UsageError(
            f"--seed must be 0 or more, and with the number of pictures at most 2^32, not {first} for {count}", advice
        )


def quiet_libraries() -> None:
    """Turns off the bars and advice of the model libraries. Call this before using them."""
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")  # read when they are imported
    from pmagic.bases import light_imports

    light_imports.import_models()
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def learn_low(reporter: Reporter, needed: Callable[..., int], memory: str, place: str) -> bool:
    """Whether to learn with less memory: for "low", and for "auto" if too little memory is free.

    Reports how much memory learning takes, and warns if less is free. needed: `memory_to_learn` of this learning,
    called with `low` alone. place: as `--device` names it.
    """
    free = memory_free(place)
    usual = needed()
    low = memory == "low" or (memory == "auto" and free is not None and free < usual)
    wanted = needed(low=low)
    reporter.say(f"memory: about {gigabytes(wanted)} besides the program's own{LOW if low else ''}")
    if free is not None and free < wanted:
        reporter.warn(f"this takes about {gigabytes(wanted)} of memory, but only {gigabytes(free)} are free")
    return low


def memory_to_learn(
    method: "Method", spec: "ModelSpec", settings: "LearnSettings", place: str, dtype: str, *, low: bool = False
) -> int:
    """Roughly the bytes that learning takes, with the base opened on that device in that number type."""
    from pmagic import methods
    from pmagic.bases import loading, memory_estimate

    fast = loading.find_compute_dtype(loading.find_device(place)) if dtype == "auto" else loading.DTYPES.get(dtype)
    half = fast is not None and fast.itemsize == 2
    return memory_estimate.memory_to_learn(
        spec,
        settings.rows,
        trained=method.count_weights(spec, settings),
        half=half,
        low=low,
        decodes=settings.looks_at_faces,
        texts=methods.texts_per_sample(method, spec),
    )


def compile_base(
    reporter: Reporter, base: "Base", subject: "Subject", settings: "LearnSettings", make_learner: "MakeLearner"
) -> "Base":
    """The base with its UNet compiled for this learning; tells what that took and brings, and warns if it does not pay.

    make_learner: the method's.
    Raises UsageError where this machine cannot compile, or compiles to what is wrong.
    """
    from pmagic.engine import compiling, probe, training

    short = probe.probe_settings(settings)  # a step whose losses are quickly had; the UNet is asked the same
    before = training.seconds_per_step(base, subject, short, make_learner, measured=1.0)
    reporter.say("compiling the UNet: minutes the first time, seconds where this machine has done it before")
    own, start = training.first_step_gradient(base, subject, short, make_learner), time.monotonic()
    base = replace(base, compiled=True)
    with compiling.compile_errors():
        after = training.seconds_per_step(base, subject, short, make_learner, measured=1.0)
        compiling.check_gradient(own, training.first_step_gradient(base, subject, short, make_learner))
    cost = time.monotonic() - start
    steps = settings.iterations + (settings.probe_iterations if settings.bounds is None else 0)
    gain = steps * (before - after)
    message = f"a step takes {after:.2g} s instead of {before:.2g}: {duration(max(gain, 0))} less in {steps} steps"
    reporter.say(f"compiled in {duration(cost)}; {message}")
    if gain < cost:
        reporter.warn(f"for this learning alone, --compile does not pay: it took {duration(cost)}; {message}")
    return base


def memory_free(place: str) -> int | None:
    """Bytes free where the models are: on the first GPU, or else in the machine. None if the system does not say."""
    import torch

    from pmagic.bases import memory_estimate

    if place.partition(":")[0] in ("auto", "cuda") and torch.cuda.is_available():
        # What torch keeps for later tensors is free, too.
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return memory_estimate.memory_free()


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.2g} GB"
