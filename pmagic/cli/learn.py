"""`pmagic learn`: one photo (or several of one person) becomes a persona that is kept."""

import hashlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmagic import settings
from pmagic.cli import choosing, names
from pmagic.cli.console import Console, duration, hush_libraries
from pmagic.cli.stopping import Stopped, stop_at_step
from pmagic.errors import NotFound, UsageProblem
from pmagic.library import naming, unfinished
from pmagic.library.store import Library

if TYPE_CHECKING:
    from PIL import Image

    from pmagic.bases.loading import Base
    from pmagic.engine.training import StepReport
    from pmagic.persona import Persona

_TIMED_STEPS = 5  # after so many the time left can be told


def learn(
    photo: Annotated[list[Path], typer.Argument(help="A JPEG, PNG or WEBP photo; several of one person may follow.")],
    name: Annotated[str, typer.Option("--name", help="What to call the persona.")],
    base: Annotated[
        str | None,
        typer.Option(
            "--base", help="mini, sd14, sd15, dreamlike, a hub id or a diffusers folder.", autocompletion=names.bases
        ),
    ] = None,
    word: Annotated[str, typer.Option("--word", help="Super-category of the subject; one token of the base.")] = "face",
    mask: Annotated[Path | None, typer.Option("--mask", help="Picture that is white where the subject is.")] = None,
    method: Annotated[
        str, typer.Option("--method", help="How to learn.", autocompletion=names.methods)
    ] = "personamagic",
    recipe: Annotated[str, typer.Option("--recipe", help="Named set of values: reference.")] = "reference",
    iterations: Annotated[int | None, typer.Option("--iterations", help="Optimiser steps.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Samples per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="Effective learning rate.")] = None,
    bounds: Annotated[
        str | None, typer.Option("--bounds", help="Dynamic interval in timesteps, LOW:HIGH, as in 400:800.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed learns the same persona.")] = 0,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or mps.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="Number type: auto, float32, bfloat16, ...")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No talk, no progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Learn a person from one photo. Stopped, the same command goes on where it was."""
    from pmagic import shelf
    from pmagic.engine import prompts, recipes

    console = Console(quiet=quiet, as_json=as_json)
    # What needs no model first: a wrong name or photo must not cost the person a minute.
    name = naming.checked_name(name)
    library = Library(settings.library_dir())
    library.require_free(name)
    interval = parse_bounds(bounds)
    check_seed(seed)
    photos, mask_image = _read(photo, mask)
    _require_method(method)
    card = choosing.choose_base(base)
    given = {
        "iterations": iterations,
        "batch": batch,
        "learning_rate": learning_rate,
        "seed": seed,
        "bounds": interval,
    }
    recipes.settings_for(recipe, card.defaults, **given)
    hush_libraries()
    prompts.check_word(prompts.load_tokenizer(card.folder), word)

    from pmagic.bases import loading
    from pmagic.engine import subject as subjects

    chosen = shelf.take("methods", method)
    how = chosen.settings_for(recipe, card.defaults, **given)
    choosing.tell_memory(console, card, how.batch)
    opened = loading.load(card, device=choosing.device(device), dtype=dtype)
    library.require_same_base(name, card.name, opened.fingerprint)
    images, hashes = [each.image for each in photos], [each.sha256 for each in photos]
    warn_of_strange_photos(console, opened, images)
    subject = subjects.observe(opened, images, hashes, word=word, mask=mask_image)
    console.say(
        f"learning {name} from {len(images)} photo{'s' * (len(images) > 1)} on {card.name} ({opened.device}): "
        f"{how.iterations} iterations of {how.batch}"
    )
    inputs = {
        "method": method,
        "base": opened.fingerprint,
        "word": word,
        "photos": hashes,
        "mask": hashlib.sha256(mask_image.tobytes()).hexdigest() if mask_image else "",
        "settings": how.as_table(),
    }
    start = time.monotonic()
    with unfinished.alone(library.root, name) as folder:
        checkpoint = unfinished.file_for(folder, inputs)
        persona = _train(console, name, how.iterations, checkpoint, partial(chosen.learn, opened, subject, how))
        address = library.save(name, persona)
        unfinished.clear(folder)
    seconds = time.monotonic() - start
    console.say(f'{address} is learned ({duration(seconds)}); now: pmagic render {name} "as a cowboy"')
    document = {
        "persona": str(address),
        "folder": naming.folder_of(library.root, address),
        "base": card.name,
        "word": word,
        "method": method,
        "settings": dict(persona.settings),
        "losses": dict(persona.losses),
        "seconds": round(seconds, 1),
        "warnings": console.warnings,
    }
    console.result([str(address)], document)


def _train(
    console: Console, name: str, iterations: int, checkpoint: Path, learn_with: Callable[..., "Persona"]
) -> "Persona":
    """Learns with a bar and the time left; stopped by the person it ends in `Stopped`, the checkpoint kept."""
    if checkpoint.exists():
        console.say("going on from the checkpoint of the learning that was stopped")
    done = 0
    times: list[float] = []
    with stop_at_step() as check, console.progress(f"learning {name}") as advance:

        def on_step(report: "StepReport") -> None:
            nonlocal done
            done = report.step
            times.append(time.monotonic())
            if len(times) == _TIMED_STEPS:
                each = (times[-1] - times[1]) / (_TIMED_STEPS - 2)  # the first step is slower than the others
                console.say(f"about {duration(each * (iterations - done))} to go")
            advance(done, report.total, f"loss {report.loss:.4f}")
            check()

        try:
            return learn_with(on_step=on_step, checkpoint=checkpoint)
        except KeyboardInterrupt as stop:
            raise _stopped(name, done, iterations, checkpoint) from stop


def parse_bounds(text: str | None) -> tuple[int, int] | None:
    """`400:800` -> (400, 800); whether the numbers can be bounds is the recipe's to say."""
    if text is None:
        return None
    low, colon, high = text.partition(":")
    if not (colon and low.isdecimal() and high.isdecimal()):
        raise UsageProblem(f"--bounds cannot be {text!r}", "write it as LOW:HIGH, for example 400:800")
    return int(low), int(high)


def check_seed(seed: int, pictures: int = 1) -> None:
    if not 0 <= seed <= 2**63 - pictures:
        raise UsageProblem(f"--seed must be 0 or more and below 2^63, not {seed}", "give for example --seed 1")


def warn_of_strange_photos(console: Console, base: "Base", photos: "list[Image.Image]") -> None:
    """A base that says what it knows is asked whether a photo survives its autoencoder; if not, the person is told."""
    knows = base.card.defaults.get("knows")
    if not knows:
        return
    from pmagic.engine import subject as subjects

    worst = min(subjects.roundtrip_psnr(base, photo) for photo in photos)
    if worst < knows["psnr"]:
        console.warn(
            f"the base {base.name!r} knows {knows['what']} only, and this is something else (only {worst:.1f} dB of it "
            f"survive its autoencoder, {knows['psnr']:g} dB of what it knows): do not expect a likeness. "
            "For photographs use --base sd14"
        )


def _read(paths: list[Path], mask: Path | None) -> tuple[list, "Image.Image | None"]:
    from pmagic import pictures

    photos = [pictures.read_photo(path) for path in paths]
    if mask is None:
        return photos, None
    if len(photos) > 1:
        raise UsageProblem("one --mask cannot serve several photos", "learn from one photo, or leave the mask out")
    return photos, pictures.read_mask(mask, photos[0].image.size)


def _require_method(name: str) -> None:
    from pmagic import shelf

    known = shelf.names("methods")
    if name not in known:
        raise NotFound(f"there is no method {name!r}", f"choose one of: {', '.join(known)}")


def _stopped(name: str, done: int, total: int, checkpoint: Path) -> Stopped:
    if not checkpoint.exists():
        return Stopped(f"learning {name} was stopped before its first step", "run the same command to start again")
    return Stopped(
        f"learning {name} was stopped after {done} of {total} iterations",
        "run the same command to go on from there",
        kept="what was learned so far",
    )
