"""Series: how the time grows with pictures, resolution, steps, people in an evaluation, personas in the library."""

import tempfile
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import crowd
import numpy as np

from bench import arms, timing
from pmagic.engine import rendering, step_cache
from pmagic.engine.recipes import RenderSettings
from pmagic.library import bundle
from pmagic.library.store import Library
from pmagic.persona import REFERENCE_BOUNDS, Persona

REPEATS = 3
Found = dict[str, object]


def pictures(bench: arms.Bench) -> Found:
    """1 to 16 pictures at once."""
    times = _drawn(bench, (1, 2, 4, 8, 16), lambda count: replace(bench.drawing, batch=count), lambda count: count)
    each = {count: [seconds / count for seconds in found] for count, found in times.items()}
    return _found("pictures at once", "seconds a picture", {"ours": each})


def resolution(bench: arms.Bench) -> Found:
    sides = [bench.base.size * k // 2 for k in (2, 3, 4)]
    times = _drawn(bench, sides, lambda side: replace(bench.drawing, size=(side, side)), lambda side: 1)
    return _found("pixels of a side", "seconds a picture", {"ours": times})


def steps(bench: arms.Bench) -> Found:
    times = _drawn(bench, (10, 20, 30, 40, 50), lambda count: replace(bench.drawing, steps=count), lambda count: 1)
    return _found("steps of the sampler", "seconds a picture", {"ours": times})


def people(bench: arms.Bench) -> Found:
    """People drawn in one scene; the steps above the dynamic stage are computed once for all, or once per person."""
    persona, unet = bench.persona(), bench.base.pipeline.unet

    def evaluated(count: int, shared: bool) -> None:
        answers: step_cache.UNetCache = {}
        for _ in range(count):
            with step_cache.cached_first_steps(unet, answers, persona.bounds.high) if shared else nullcontext():
                rendering.render(bench.base, persona, arms.PROMPT, range(arms.PICTURES), bench.drawing)

    rows = {
        name: {
            count: [
                timing.run(arms.Arm(lambda c=count, s=shared: evaluated(c, s)), bench.base.device).wall / count
                for _ in range(REPEATS)
            ]
            for count in (1, 2, 4, 8)
        }
        for name, shared in (("shared", True), ("each by itself", False))
    }
    return _found("people in a scene", f"seconds a person, {arms.PICTURES} pictures", rows)


def personas() -> Found:
    """Processor time in seconds of whole commands, in a library of 1 to 10,000 personas."""
    completed = {"_PMAGIC_COMPLETE": "complete_bash", "COMP_WORDS": "pmagic show person0000", "COMP_CWORD": "2"}
    commands = {"list": (["list"], {}), "show NAME": (["show", "person00000"], {}), "completion": ([], completed)}
    files = bundle.pack(
        Persona(
            method="personamagic", base="mini", fingerprint="a" * 64, word="face", bounds=REFERENCE_BOUNDS,
            tensors={"image_embedding": np.zeros(8, np.float16)}, settings=crowd.SETTINGS, losses={}, curve=(),
            photos=("b" * 64,),
        )
    )  # fmt: skip
    rows: dict[str, dict[int, list[float]]] = {name: {} for name in commands}
    there = 0
    with tempfile.TemporaryDirectory() as home:
        for count in (1, 10, 100, 1000, 10_000):
            crowd.fill(Path(home, "library"), files, range(there, count))
            there = count
            for name, (words, environment) in commands.items():
                rows[name][count] = [crowd.seconds_of(*words, **environment, PMAGIC_HOME=home)]
    return _found("personas in the library", "seconds of a command", rows)


def cold(bench: arms.Bench) -> Found:
    """Processor time in seconds of a whole `pmagic render`, from its start to its end, by the number of pictures."""
    rows: dict[str, dict[int, list[float]]] = {"render": {}, "render --exact": {}}
    with tempfile.TemporaryDirectory() as home:
        Library(Path(home, "library")).save("alice", bench.persona())
        place = ["--base", str(bench.base.spec.local_folder), "--out", home, "--steps", str(bench.drawing.steps)]
        for count in (1, 4, 8):
            for name, times in rows.items():
                words = [*name.split(), "alice", "as a cowboy", "-n", str(count), *place]
                times[count] = [crowd.seconds_of(*words, PMAGIC_HOME=home)]
    return _found("pictures", "seconds of a command", rows)


OF_BASE: dict[str, Callable[[arms.Bench], Found]] = {
    "pictures": pictures,
    "resolution": resolution,
    "steps": steps,
    "people": people,
    "cold": cold,
}


def _drawn(
    bench: arms.Bench,
    values: Iterable[int],
    settings_of: Callable[[int], RenderSettings],
    count: Callable[[int], int],
) -> dict[int, list[float]]:
    """Seconds for `count` pictures at each value, after a warm-up that is not counted."""
    persona, times = bench.persona(), {}
    for value in values:
        draw = arms.Arm(
            lambda v=value: rendering.render(bench.base, persona, arms.PROMPT, range(count(v)), settings_of(v))
        )
        timing.run(draw, bench.base.device)
        times[value] = [timing.run(draw, bench.base.device).wall for _ in range(REPEATS)]
    return times


def _found(over: str, unit: str, rows: dict[str, dict[int, list[float]]]) -> Found:
    return {"what": f"{unit} over {over}", "over": over, "unit": unit, "series": rows}
