"""Class pictures: what the base itself draws for the plain class word. Prior preservation trains on them (DreamBooth).

They are kept as latents: nothing is decoded or encoded again. Each one has noise of its own, so the first hundred of
two hundred are the same as a hundred.
"""

# N pictures . S text positions . w text width . C latent channels . h, w of the latents

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pmagic import atomic_io
from pmagic.bases.loading import Base
from pmagic.engine import composing, memory, randomness, recipes, rendering, token_batch
from pmagic.engine.recipes import RenderSettings
from pmagic.errors import NumericFailure

PROMPT = "a photo of a {}"
AT_ONCE = 4  # pictures drawn together and kept in one file; another number would change their last bits
TRIAL = (2, 4)  # sampler steps of the two drawings that are timed
_KEY = "latents"


def class_latents(
    base: Base, word: str, count: int, root: Path, on_step: Callable[[int, int], None] = lambda done, total: None
) -> Tensor:
    """The first `count` class pictures of a word: (N, C, h, w), as the UNet reads them, on the base's device.

    root: the cache. Missing pictures are drawn and kept there, group by group, so that a stop loses one group at most;
    files that cannot be used are drawn again. on_step gets the UNet calls done and the total.
    Raises NumericFailure, OutOfMemory, StorageFailed, and what on_step raises.
    """
    folder, settings = folder_of(base, word, root), _settings(base)
    absent = _missing_groups(base, folder, count)
    total, calls = len(absent) * len(rendering.timesteps(base, settings)), 0

    def on_call() -> None:
        nonlocal calls
        calls += 1
        on_step(calls, total)

    for group in absent:
        latents = _draw(base, word, group, settings, on_call)
        data = safetensors.torch.save({_KEY: latents}, {"base": base.name, "prompt": PROMPT.format(word)})
        with atomic_io.storing(f"class pictures in {folder}"):
            atomic_io.make_folder(folder)
            atomic_io.replace_file(_file(folder, group), data)
    groups = [_read(base, _file(folder, group)) for group in range(_groups(count))]
    found = torch.cat([each for each in groups if each is not None])[:count]
    return found.to(base.device, base.learner_dtype)


def count_missing(base: Base, word: str, count: int, root: Path) -> int:
    """How many pictures `class_latents` would draw."""
    return AT_ONCE * len(_missing_groups(base, folder_of(base, word, root), count))


def kept_bytes(base: Base, count: int) -> int:
    """The size of so many class pictures on disk."""
    return 4 * base.pipeline.unet.config.in_channels * (base.size // base.pipeline.vae_scale_factor) ** 2 * count


def seconds_to_draw(base: Base, word: str, count: int) -> float:
    """About how long drawing takes, from two short trials whose pictures are discarded."""
    settings, times = _settings(base), []
    for steps in TRIAL:
        start = time.monotonic()
        _draw(base, word, 0, replace(settings, steps=steps))
        times.append(time.monotonic() - start)
    step = max(0.0, times[1] - times[0]) / (TRIAL[1] - TRIAL[0])
    return _groups(count) * (times[0] + step * (settings.steps - TRIAL[0]))


def encode_prompt(base: Base, word: str) -> Tensor:
    """The class pictures' prompt, packed: (1, S, 2w)."""
    with torch.no_grad():
        return token_batch.encode_plain(base, PROMPT.format(word)).pack()


def digest(latents: Tensor) -> str:
    """SHA-256 of class pictures, for a persona's record."""
    return hashlib.sha256(latents.float().cpu().numpy().tobytes()).hexdigest()


def folder_of(base: Base, word: str, root: Path) -> Path:
    """The folder of a base's class pictures of a word: all that decides their bits is in its name."""
    decides = [
        base.fingerprint,
        word,
        PROMPT,
        asdict(_settings(base)),
        base.size,
        base.device.type,
        str(base.weights_dtype),
        str(base.compute_dtype),
    ]
    name = hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]
    return root / (f"{word}-{name}" if word.isalnum() else name)


def _settings(base: Base) -> RenderSettings:
    """The base's usual ones, whatever recipe is learned by: all methods share the pictures."""
    return recipes.render_settings_for(recipes.DEFAULT, base.spec.defaults, size=(base.size,) * 2, batch=AT_ONCE)


def _draw(
    base: Base, word: str, group: int, settings: RenderSettings, on_call: Callable[[], None] = lambda: None
) -> Tensor:
    """One group of pictures: (AT_ONCE, C, h, w), float32, on the CPU."""
    numbers = range(group * AT_ONCE, (group + 1) * AT_ONCE)
    seeds = [int(torch.randint(2**32, (), generator=randomness.generator(0, "prior", each))) for each in numbers]
    script = rendering.encode_prompt(base, {"": composing.constant_schedule(word)}, PROMPT, settings)
    with memory.oom_as_problem(f"draw {AT_ONCE} class pictures at once", "learn without --prior"):
        noise = rendering.initial_noise(base, seeds, base.size, base.size)
        latents = rendering.sample(base, script, noise, settings, on_call).float().cpu()
    if not latents.isfinite().all():
        raise NumericFailure(
            f"a class picture holds NaN or infinity (drawn in {base.computes_in})", "learn with --dtype float32"
        )
    return latents


def _groups(count: int) -> int:
    return -(-count // AT_ONCE)


def _missing_groups(base: Base, folder: Path, count: int) -> list[int]:
    return [group for group in range(_groups(count)) if _read(base, _file(folder, group)) is None]


def _file(folder: Path, group: int) -> Path:
    return folder / f"{group:04d}.safetensors"


def _read(base: Base, path: Path) -> Tensor | None:
    """A group that was kept; None if there is no file or it does not hold such latents."""
    side = base.size // base.pipeline.vae_scale_factor
    try:
        latents = safetensors.torch.load(path.read_bytes())[_KEY]
    except (OSError, KeyError, safetensors.SafetensorError):
        return None
    fits = latents.shape == (AT_ONCE, base.pipeline.unet.config.in_channels, side, side)
    return latents if fits and latents.dtype == torch.float32 and latents.isfinite().all() else None
