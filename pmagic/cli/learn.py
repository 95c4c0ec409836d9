"""`pmagic learn`: one photo (or several of one person) becomes a persona that is kept."""

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmagic import settings
from pmagic.cli import choosing, names, photos, resuming, staging
from pmagic.cli.console import Console, duration, hush_libraries
from pmagic.cli.options import AsJson, Quiet
from pmagic.cli.previews import Previews, with_preview
from pmagic.cli.resuming import Asked
from pmagic.cli.stopping import LeftAtOnce, Stopped, stop_at_step
from pmagic.errors import Incompatible, NotFound, NumericFailure, OutOfMemory, UsageProblem
from pmagic.library import naming, probes, unfinished
from pmagic.library.store import Library

if TYPE_CHECKING:
    from pmagic.bases.card import Card
    from pmagic.bases.loading import Base
    from pmagic.engine.recipes import LearnSettings
    from pmagic.engine.subject import Subject
    from pmagic.engine.training import StepReport
    from pmagic.persona import Persona


def learn(
    photo: Annotated[
        list[Path] | None, typer.Argument(help="A JPEG, PNG or WEBP photo; several of one person may follow.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="What to call the persona.")] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base", help="mini, sd14, sd15, dreamlike, a hub id or a diffusers folder.", autocompletion=names.bases
        ),
    ] = None,
    word: Annotated[
        str | None,
        typer.Option("--class", help="What it is, in one word that the base knows: face (the default), cat, cup, ..."),
    ] = None,
    style: Annotated[
        bool, typer.Option("--style", help="Learn how the pictures are made, not what they show.")
    ] = False,
    face: Annotated[int | None, typer.Option("--face", help="Which face of the photo, 1 being the largest.")] = None,
    mask: Annotated[Path | None, typer.Option("--mask", help="Picture that is white where the subject is.")] = None,
    method: Annotated[
        str, typer.Option("--method", help="How to learn.", autocompletion=names.methods)
    ] = "personamagic",
    recipe: Annotated[
        str, typer.Option("--recipe", help="Named set of values: paper or reference.", autocompletion=names.recipes)
    ] = "paper",
    iterations: Annotated[int | None, typer.Option("--iterations", help="Optimiser steps.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Samples per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="Effective learning rate.")] = None,
    stages: Annotated[
        str | None,
        typer.Option("--stages", help="Dynamic interval in timesteps, LOW:HIGH, as in 400:800, instead of a probe."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed learns the same persona.")] = 0,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or mps.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="Number type: auto, float32, bfloat16, ...")] = "auto",
    memory: Annotated[
        str, typer.Option("--memory", help="auto, normal, or low: the same result with less memory, more slowly.")
    ] = "auto",
    compile_unet: Annotated[
        bool,
        typer.Option("--compile", help="Compile the UNet first: minutes once, then shorter steps; says if it pays."),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a learning that was stopped; --name says which of several.")
    ] = False,
    preview_every: Annotated[
        int | None, typer.Option("--preview-every", help="Draw a portrait after every so many iterations.", min=1)
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Learn a person from one photo. Stopped, `pmagic learn --resume` goes on where it was.

    \b
    pmagic learn alice.jpg --name alice
    pmagic learn cat.png --name tom --class cat --base mini
    pmagic learn --resume
    """
    console = Console(quiet=quiet, as_json=as_json)
    paths = [str(each) for each in photo or ()]
    asked = Asked(
        tuple(paths), base, word, style, face, None if mask is None else str(mask), method, recipe, iterations, batch,
        learning_rate, stages, seed, device, dtype, compile_unet,
    )  # fmt: skip
    if resume:
        name, asked = resuming.recall(settings.library_dir(), name, asked)
    elif name is None:
        raise UsageProblem("Missing option '--name'", "say what to call the persona, as in --name alice")
    if not asked.photos:
        raise UsageProblem("Missing argument 'photo'", "give a photo, or --resume to go on with a stopped learning")
    _learn(console, naming.checked_name(name), asked, memory=memory, resumed=resume, preview_every=preview_every)


def _learn(console: Console, name: str, asked: Asked, *, memory: str, resumed: bool, preview_every: int | None) -> None:
    from pmagic import shelf
    from pmagic.engine import prompts

    # What needs no model first: a wrong name or photo must not cost the person a minute.
    library = Library(settings.library_dir())
    library.require_free(name)
    interval = staging.parse(asked.stages)
    check_seed(asked.seed)
    choosing.check_memory(memory)
    mask = None if asked.mask is None else Path(asked.mask)
    shown = photos.shown(console, [Path(each) for each in asked.photos], mask, asked.word, asked.style)
    _require_method(asked.method)
    card = choosing.choose_base(asked.base)
    hush_libraries()
    chosen = shelf.take("methods", asked.method)
    how = chosen.settings_for(
        asked.recipe,
        card.defaults,
        iterations=asked.iterations,
        batch=asked.batch,
        learning_rate=asked.learning_rate,
        seed=asked.seed,
        bounds=interval,
        kind=shown.kind,
    )
    prompts.check_word(prompts.load_tokenizer(card.folder), shown.word)
    known = shown.portraits(card, how, asked.face)

    from pmagic.bases import loading, places

    place = choosing.device(asked.device)
    needed = partial(choosing.memory_to_learn, card, how, place, asked.dtype)
    low = choosing.learn_low(console, needed, memory, place)
    if low and asked.compile:
        raise UsageProblem(
            "--compile does not go with less memory: what is computed again would be compiled once more",
            "leave out --compile, or say --memory normal",
        )
    opened = loading.load(card, device=place, dtype=asked.dtype)
    library.require_same_base(name, opened.name, opened.fingerprint)
    places.remember(card, opened.fingerprint)
    photos.warn_of_strange_photos(console, opened, shown)
    subject = shown.observed(opened, known)
    count = len(shown.images)
    console.say(
        f"learning {name} from {count} photo{'s' * (count > 1)} on {card.name} "
        f"({opened.device}, {opened.computes_in}): {how.iterations} iterations of {how.batch}"
    )
    start = time.monotonic()
    previews = Previews(console, opened, name, preview_every)
    with unfinished.alone(library.root, name) as folder, _memory_told(card, how.batch, needed):
        resuming.keep(folder, asked.on(card.name))
        if asked.compile:
            opened = _compiled(console, name, opened, subject, how)
        found = None
        if how.bounds is None:
            found = _stages(console, name, folder, shown, opened, subject, how)
            how = replace(how, bounds=found.bounds)
        inputs = {**shown.inputs(), "method": asked.method, "base": opened.fingerprint, "settings": how.as_table()}
        checkpoint = unfinished.file_for(folder, inputs)
        goes_on = resumed or checkpoint.exists()
        if resumed and not checkpoint.exists() and any(folder.glob("*.checkpoint")):
            raise Incompatible(
                f"the photo or the base of {name!r} is not the one that its learning was started with",
                "put the old one back, or learn anew without --resume",
                kept="what was learned so far",
            )
        learn_with = partial(chosen.learn, opened, subject, how)
        persona = _train_within(
            console, opened, low, partial(_train, console, name, how.iterations, checkpoint, learn_with, previews)
        )
        if found is not None:
            persona = _told(persona, found)
        # Killed between saving and clearing, it is kept already.
        address = library.find_same(name, persona) if goes_on else None
        address = address or library.save(name, with_preview(console, opened, persona))
        unfinished.clear(folder, f"{address} is learned and kept; ")
    seconds = time.monotonic() - start
    console.say(f'{address} is learned ({duration(seconds)}); now: pmagic render {name} "as a cowboy"')
    document = {
        "persona": str(address),
        "folder": naming.folder_of(library.root, address),
        "base": persona.base,
        "word": shown.word,
        "method": asked.method,
        "bounds": [persona.bounds.low, persona.bounds.high],
        "curve": [list(point) for point in persona.curve],
        "settings": dict(persona.settings),
        "losses": dict(persona.losses),
        "previews": previews.files,
        "seconds": round(seconds, 1),
        "warnings": console.warnings,
    }
    console.result([str(address)], document)


def _compiled(console: Console, name: str, base: "Base", subject: "Subject", how: "LearnSettings") -> "Base":
    """As choosing.compiled; stopped by the person it ends in `Stopped`, with everything as it was before."""
    try:
        return choosing.compiled(console, base, subject, how)
    except KeyboardInterrupt as stop:
        again = f"to go on: pmagic learn --resume --name {shlex.quote(name)}"
        raise Stopped(f"learning {name} was stopped while compiling", again, kept="what there was of it") from stop


def _stages(
    console: Console,
    name: str,
    folder: Path,
    shown: photos.Shown,
    base: "Base",
    subject: "Subject",
    how: "LearnSettings",
) -> probes.Found:
    """The stages that an earlier probe has kept, or those of a new one, which is kept in its turn.

    Stopped by the person it ends in `Stopped`; the same learning then begins with a new probe.
    """
    asked, own = staging.asked_inputs(shown, base, how), staging.own_inputs(shown, base, how)
    found = staging.kept(folder, asked, own)
    if found is not None:
        console.say(f"its stages were found before: {found.bounds.low}:{found.bounds.high}")
        staging.warn_of_fallback(console, found)
        return found
    try:
        if console.talks:
            staging.tell_time(console, base, subject, how, with_learning=True)
        found = staging.as_found(staging.run(console, base, subject, how, f"learning {name}"))
    except (KeyboardInterrupt, Stopped) as stop:
        raise Stopped(f"learning {name} was stopped while finding its stages", *_to_begin_again(name)) from stop
    console.say(f"dynamic for {found.bounds.low} <= t < {found.bounds.high}")
    probes.keep(folder, own, found)
    return found


def _told(persona: "Persona", found: probes.Found) -> "Persona":
    """The persona with the probe that gave it its bounds."""
    from pmagic.engine import probe

    return probe.told(persona, found.curve, found.fell_back)


def _train_within(console: Console, base: "Base", low: bool, train: Callable[[], "Persona"]) -> "Persona":
    """Trains in the memory there is; where that is too little it goes on once with less, to the same persona."""
    from pmagic.engine import memory

    if not low:
        try:
            return train()
        except OutOfMemory as problem:
            again = ", and the UNet compiled once more" if base.compiled else ""
            console.warn(f"{problem.what}; going on{choosing.LOW}{again}")
    with memory.recomputed(base.pipeline):
        return train()


@contextmanager
def _memory_told(card: "Card", batch: int, needed: Callable[..., int]) -> Iterator[None]:
    """Running out of memory says how much it takes on this base, and what makes it less."""
    from pmagic.bases import needs

    try:
        yield
    except OutOfMemory as problem:
        free = needs.memory_free()
        there = "" if free is None else f", {choosing.gigabytes(free)} are free now"
        usual, low = (choosing.gigabytes(needed(low=low)) for low in (False, True))
        raise OutOfMemory(
            f"{problem.what}; learning on {card.name} with --batch {batch} takes about {usual}, with --memory low "
            f"{low}, besides the program's own{there}",
            "add --batch 1" if batch > 1 else "end other programs, or learn on a smaller --base",
            kept=problem.kept or "nothing was published",
        ) from problem


def _train(
    console: Console,
    name: str,
    iterations: int,
    checkpoint: Path,
    learn_with: Callable[..., "Persona"],
    previews: Previews,
) -> "Persona":
    """Learns with a bar and the time left; stopped by the person it ends in `Stopped`, the checkpoint kept."""
    if checkpoint.exists():
        console.say("going on from the checkpoint of the learning that was stopped")
    done = 0
    with stop_at_step() as check, console.progress(f"learning {name}") as advance:

        def on_step(report: "StepReport") -> None:
            nonlocal done
            done = report.step
            terms = "  ".join(f"{term} {value:.3f}" for term, value in report.losses.items())
            advance(done, report.total, terms)
            previews.after(report)
            check()

        try:
            return learn_with(on_step=on_step, checkpoint=checkpoint)
        except LeftAtOnce as stop:
            raise _stopped(name, "at once, in the middle of a step", checkpoint) from stop
        except KeyboardInterrupt as stop:
            raise _stopped(name, f"after {done} of {iterations} iterations", checkpoint) from stop
        except NumericFailure as problem:
            kept = "nothing was published" + (f"; the last good state is in {checkpoint}" * checkpoint.exists())
            raise NumericFailure(
                f"in iteration {min(done + 1, iterations)}: {problem.what}", problem.next_step, kept
            ) from problem


def check_seed(seed: int, pictures: int = 1) -> None:
    if not 0 <= seed <= 2**63 - pictures:
        raise UsageProblem(f"--seed must be 0 or more and below 2^63, not {seed}", "give for example --seed 1")


def _require_method(name: str) -> None:
    from pmagic import shelf

    known = shelf.names("methods")
    if name not in known:
        raise NotFound(f"there is no method {name!r}", f"choose one of: {', '.join(known)}")


def _stopped(name: str, when: str, checkpoint: Path) -> Stopped:
    if not checkpoint.exists():
        return Stopped(f"learning {name} was stopped before its first step", *_to_begin_again(name))
    return Stopped(
        f"learning {name} was stopped {when}",
        f"to go on from there: pmagic learn --resume --name {shlex.quote(name)}",
        kept="what was learned so far",
    )


def _to_begin_again(name: str) -> tuple[str, str]:
    """What to type next, and what is kept, where there is no checkpoint yet."""
    return f"to begin again: pmagic learn --resume --name {shlex.quote(name)}", "what was asked for"
