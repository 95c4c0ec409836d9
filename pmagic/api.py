"""The Python API: learn, probe, render, compose, save and load, as functions of plain values.

    import pmagic

    alice = pmagic.learn("alice.jpg", base="mini")
    pictures = pmagic.render(alice, "as a cowboy", n=4)
    pmagic.save(alice, "alice")

Every function is also a name of `pmagic` itself. `base` is a name as `pmagic learn --base` takes it, None for the
configured one, or a base that `open_base` has opened, so that many calls open it once. Errors are `PmagicError` and
its family. What would be a warning on the terminal is a Python warning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pmagic import settings
from pmagic.errors import PmagicError as PmagicError
from pmagic.errors import UsageError as UsageError
from pmagic.library.naming import check_name
from pmagic.library.store import Library
from pmagic.persona import Persona, StageBounds
from pmagic.settings import NumberType
from pmagic.tasks import base_options, drawing, learning, probing
from pmagic.tasks.base_options import Memory
from pmagic.tasks.drawing import UNSAVED, RenderOptions, Scene
from pmagic.tasks.prompt_text import compose_names, render_prompt, title_of
from pmagic.tasks.reporting import PythonWarnings

if TYPE_CHECKING:
    from PIL import Image

    from pmagic.bases.loading import Base
    from pmagic.engine.probe import Probe
    from pmagic.engine.regions import Box
    from pmagic.engine.training import StepReport

__all__ = [
    "Persona", "PmagicError", "StageBounds", "compose", "learn", "load", "open_base", "probe", "render", "save",
]  # fmt: skip


def open_base(name: str | None = None, *, device: str | None = None, dtype: NumberType = "auto") -> Base:
    """A base in memory, to be given to several calls.

    name: "mini", "sd14", a hub id whose files are on this machine, a diffusers folder or a single file; None for the
        configured one.
    device: "cpu", "cuda", "mps", "auto"; None for the configured one. dtype: "auto", "float32", "bfloat16", "float16".
    Raises NotFound, WeightsMissing, UsageError, Incompatible.
    """
    base_options.quiet_libraries()
    return base_options.open_base(name, base_options.choose_base(name), base_options.device(device), dtype)


def learn(
    photo: str | Path | Image.Image | Sequence[str | Path | Image.Image],
    *,
    base: Base | str | None = None,
    word: str | None = None,
    style: bool = False,
    face: int | None = None,
    mask: str | Path | Image.Image | None = None,
    method: str = "personamagic",
    recipe: str = "tuned",
    iterations: int | None = None,
    batch: int | None = None,
    learning_rate: float | None = None,
    rank: int | None = None,
    prior: int | None = None,
    stages: tuple[int, int] | None = None,
    seed: int = 0,
    device: str | None = None,
    dtype: NumberType = "auto",
    memory: Memory = "auto",
    compile: bool = False,
    progress: bool = False,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> Persona:
    """Learn a person (or a pet, an object, a style) from one photo, or from several of the same.

    word: what the photo shows, in one word that the base knows: "face" (the default), "cat", "cup". style: learn how
    the picture is made, not what it shows. face: which face, 1 for the largest. mask: white where the subject is.
    stages: (low, high) timesteps, 0 <= low < high <= 1000, of the dynamic stage instead of a probe. iterations, batch,
    learning_rate: None for the recipe's and the base's own. rank, prior: for methods that change weights, the rank of
    the weight differences (0 keeps them whole), and the number of class pictures, which the base draws once for each
    word. progress: show a bar. on_step: called after each iteration; an exception that it raises ends the learning.
    The persona is not saved; `save` does that. The same photo, settings and seed give the same persona.
    Raises PhotoRefused, UsageError, NotFound, WeightsMissing, NumericFailure, OutOfMemory.
    """
    reporter = PythonWarnings(progress=progress)
    task = learning.prepare(
        reporter,
        _photos(photo),
        base=base,
        word=word,
        style=style,
        face=face,
        mask=Path(mask) if isinstance(mask, str) else mask,
        method=method,
        recipe=recipe,
        iterations=iterations,
        batch=batch,
        learning_rate=learning_rate,
        rank=rank,
        prior=prior,
        bounds=stages,
        seed=seed,
        device=device,
        dtype=dtype,
        memory=memory,
        compiles=compile,
    )
    return task.run(reporter, on_step=on_step)


def probe(
    photo: str | Path | Image.Image | Sequence[str | Path | Image.Image],
    *,
    base: Base | str | None = None,
    word: str | None = None,
    face: int | None = None,
    mask: str | Path | Image.Image | None = None,
    seed: int = 0,
    device: str | None = None,
    dtype: NumberType = "auto",
    progress: bool = False,
) -> Probe:
    """At which timesteps the base attends to the subject of this photo, and the stages that follow.

    The result has `bounds`, `curve` ((t, IoU) pairs, largest t first) and `fallback_reason` (why the bounds are the
    usual ones, "" where they are the photo's own). `learn` does this by itself. Raises as `learn` does.
    """
    reporter = PythonWarnings(progress=progress)
    task = probing.prepare(
        reporter,
        _photos(photo),
        base=base,
        word=word,
        face=face,
        mask=Path(mask) if isinstance(mask, str) else mask,
        seed=seed,
        device=device,
        dtype=dtype,
    )
    return task.run(reporter)


def render(
    persona: Persona | str,
    prompt: str | Sequence[str],
    *,
    n: int = 1,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    scheduler: str | None = None,
    negative: str | None = None,
    size: tuple[int, int] | None = None,
    strength: float = 1.0,
    base: Base | str | None = None,
    device: str | None = None,
    dtype: NumberType = "auto",
    memory: Memory = "auto",
    exact: bool = False,
    progress: bool = False,
) -> list[Image.Image]:
    """Draw a persona: n RGB pictures of each prompt, picture k of a prompt with seed + k.

    persona: a value, or the name of a saved one ("alice", "alice@1"). prompt: "as a cowboy" is completed to
    "a photo of {} as a cowboy"; in a prompt with {} the name goes there. steps, guidance, scheduler, negative: None for
    the recipe's and the base's own. size: (width, height) in pixels. strength: the factor of what the persona changes
    of the base's weights. base: where the persona's base is, None for where it was. exact: draw one by one, so that a
    picture has the same bytes alone or among others; else as many at once as fit into free memory, which may change
    last bits. Each picture's `info["pmagic"]` is a dict of everything that decided it: prompt, seed, settings, and the
    number of pictures drawn at once.
    Raises UsageError, NotFound, Incompatible, WeightsMissing, NumericFailure, OutOfMemory.
    """
    address, value = _persona(persona)
    full_prompts = [render_prompt(each, str(address)) for each in ([prompt] if isinstance(prompt, str) else prompt)]
    scenes = [Scene(prompt=each, title=title_of(each, str(address).partition("@")[0])) for each in full_prompts]
    if not scenes:
        raise UsageError("there is no prompt", 'give one, as in "as a cowboy"')
    options = RenderOptions(
        count=n,
        seed=seed,
        steps=steps,
        guidance=guidance,
        scheduler=scheduler,
        negative=negative,
        size=size,
        strength=strength,
        device=device,
        dtype=dtype,
        memory=memory,
        exact=exact,
    )
    return _draw({"": (address, value)}, scenes, options, base, progress)


def compose(
    personas: Mapping[str, Persona | str],
    prompt: str,
    *,
    layout: Mapping[str, Box] | None = None,
    n: int = 1,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    scheduler: str | None = None,
    negative: str | None = None,
    size: tuple[int, int] | None = None,
    strength: float = 1.0,
    base: Base | str | None = None,
    device: str | None = None,
    dtype: NumberType = "auto",
    memory: Memory = "auto",
    exact: bool = False,
    progress: bool = False,
) -> list[Image.Image]:
    """Draw several personas of one base in one picture: `compose({"alice": alice, "bob": bob}, "{alice} and {bob}")`.

    personas: values or names of saved ones, by the name in the prompt's braces. layout: by the same name, the box
    (left, top, right, bottom), 0 to 1, whose prompt has that persona alone. The rest is as in `render`.
    Raises UsageError, NotFound, Incompatible, WeightsMissing, NumericFailure, OutOfMemory.
    """
    from pmagic.engine import prompts

    names = compose_names(prompt)
    missing = [name for name in names if name not in personas]
    if missing:
        raise UsageError(f"no persona is given for {{{missing[0]}}} in the prompt", "add it to `personas`")
    people = {name: _persona(personas[name], name) for name in names}
    unknown = [name for name in layout or () if name not in people]
    if unknown:
        raise UsageError(f"the layout places {unknown[0]!r}, which the prompt does not name", "use the prompt's names")
    title = prompt
    for name, (address, _) in people.items():
        title = title.replace(prompts.in_braces(name), prompts.in_braces(str(address)))
    metadata: dict[str, object] = {"verb": "compose"}
    if layout:
        metadata["layout"] = ";".join(_percent(layout[name]) for name in names if name in layout)
    scene = Scene(prompt=prompt, title=title, regions=dict(layout or {}), metadata=metadata)
    options = RenderOptions(
        count=n,
        seed=seed,
        steps=steps,
        guidance=guidance,
        scheduler=scheduler,
        negative=negative,
        size=size,
        strength=strength,
        device=device,
        dtype=dtype,
        memory=memory,
        exact=exact,
    )
    return _draw(people, [scene], options, base, progress)


def save(persona: Persona, name: str, *, library: str | Path | None = None) -> str:
    """Keep a persona in the library as the next version of `name`. Returns its address, such as "alice@1".

    library: a folder, None for the configured one. Raises UsageError for a name that cannot be one, Incompatible where
    earlier versions were learned on another base, StorageFailed, Busy.
    """
    store = _library(library)
    store.require_same_base(check_name(name), persona.base, persona.fingerprint)
    return str(store.save(name, persona))


def load(name: str, *, library: str | Path | None = None) -> Persona:
    """A saved persona: of "alice" the latest version, of "alice@1" that one. Raises NotFound, BundleDamaged."""
    return _library(library).load(name)[1]


def _draw(
    personas: Mapping[str, tuple[str, Persona]],
    scenes: Sequence[Scene],
    options: RenderOptions,
    base: Base | str | None,
    progress: bool,
) -> list[Image.Image]:
    reporter = PythonWarnings(progress=progress)
    if base is None or isinstance(base, str):
        spec = place = drawing.find_base(list(personas.values()), base)
    else:
        spec, place = base.spec, base
    task = drawing.prepare(
        reporter,
        personas,
        scenes,
        options,
        base=place,
        settings=options.settings([persona for _, persona in personas.values()], spec),
    )
    images: list[Image.Image] = []
    for picture in task.pictures(reporter):
        picture.image.info["pmagic"] = picture.metadata
        images.append(picture.image)
    return images


def _persona(given: Persona | str, name: str = UNSAVED) -> tuple[str, Persona]:
    """The name that its pictures have for the persona, and the persona."""
    if isinstance(given, Persona):
        return name, given
    address, persona = _library(None).load(given)
    return str(address), persona


def _photos(given: str | Path | Image.Image | Sequence[str | Path | Image.Image]) -> list[Path | Image.Image]:
    several = [given] if isinstance(given, str | Path) or not isinstance(given, Sequence) else given
    if not several:
        raise UsageError("there is no photo", "give the path of one, or a picture")
    return [Path(each) if isinstance(each, str) else each for each in several]


def _library(folder: str | Path | None) -> Library:
    return Library(settings.library_dir() if folder is None else Path(folder))


def _percent(box: Box) -> str:
    """The box as `pmagic compose --layout` takes it: x,y,width,height in percent."""
    left, top, right, bottom = (round(100 * side) for side in box)
    return f"{left},{top},{right - left},{bottom - top}"
