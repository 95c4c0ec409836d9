"""`pmagic probe`: which part of the schedule is worth learning in, for this photo on this base."""

import time
from pathlib import Path
from typing import Annotated

import typer

from pmagic import settings
from pmagic.cli import choosing, curves, names, photos, staging
from pmagic.cli.console import Console, duration, hush_libraries
from pmagic.cli.learn import check_seed
from pmagic.cli.options import AsJson, Quiet, parse_seed
from pmagic.errors import UsageProblem
from pmagic.library import durable, naming, probes, unfinished

_RECIPE = "paper"  # whose stages a probe finds


def probe(
    photo: Annotated[list[Path], typer.Argument(help="A JPEG, PNG or WEBP photo; several of one person may follow.")],
    name: Annotated[
        str | None, typer.Option("--name", help="Keep it for `pmagic learn --name` of the same photo and base.")
    ] = None,
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
    face: Annotated[int | None, typer.Option("--face", help="Which face of the photo, 1 being the largest.")] = None,
    mask: Annotated[Path | None, typer.Option("--mask", help="Picture that is white where the subject is.")] = None,
    seed: Annotated[
        int,
        typer.Option("--seed", help="A number, or random. The same one finds the same stages.", parser=parse_seed),
    ] = 0,
    out: Annotated[Path, typer.Option("--out", help="Folder for the plot and the attention maps.")] = Path(),
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or mps.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="Number type: auto, float32, bfloat16, ...")] = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find the stages of a photo: trains briefly, then shows where the base looks at each timestep.

    \b
    pmagic probe alice.jpg --base sd14
    pmagic probe alice.jpg --name alice --out plots
    """
    from pmagic.engine import prompts, recipes

    console = Console(quiet=quiet, as_json=as_json)
    name = None if name is None else naming.checked_name(name)
    check_seed(seed)
    choosing.check_numbers(device, dtype)
    if out.exists() and not out.is_dir():
        raise UsageProblem(f"--out cannot be {out}: it is a file", "give a folder")
    shown = photos.shown(console, photo, mask, word, style=False)
    card = choosing.choose_base(base)
    hush_libraries()
    how = recipes.settings_for(_RECIPE, card.defaults, seed=seed, kind=shown.kind)
    prompts.check_word(prompts.load_tokenizer(card.folder), shown.word)
    known = shown.portraits(card, how, face)
    with durable.storing(f"the plots in {out}"):
        durable.make_folder(out)  # now, or what is found would have no place

    from pmagic.bases import loading
    from pmagic.engine import plots
    from pmagic.engine import probe as probing

    opened = loading.load(card, device=choosing.device(device), dtype=dtype)
    photos.warn_of_strange_photos(console, opened, shown)
    subject = shown.observed(opened, known)
    if console.talks:
        staging.tell_time(console, opened, subject, how, with_learning=False)
    start = time.monotonic()
    found = staging.run(console, opened, subject, how, "the probe")
    seconds = time.monotonic() - start
    levels = (how.iou_low, how.iou_high)
    square = shown.square(opened.size, known)
    stem = photo[0].stem
    with durable.storing(f"the plots in {out}"):
        files = [
            durable.publish_file(plots.curve_plot(found, levels), out / f"{stem}-stages.png"),
            durable.publish_file(plots.attention_strip(found, square), out / f"{stem}-attention.png"),
        ]
    if name is not None:
        library = settings.library_dir()
        with unfinished.alone(library, name) as folder:
            probes.keep(folder, staging.asked_inputs(shown, opened, how), staging.as_found(found))
        console.say(f"kept: pmagic learn {photo[0]} --name {name} will not probe again")
    console.say(f"found in {duration(seconds)}")
    bounds = found.bounds
    drawn = [] if quiet else curves.plot(found.curve, bounds.low, bounds.high, levels)
    document = {
        "base": card.name,
        "word": shown.word,
        "photos": shown.hashes,
        "bounds": [bounds.low, bounds.high],
        "fell_back": found.fell_back,
        "iou_low": how.iou_low,
        "iou_high": how.iou_high,
        "curve": [list(point) for point in found.curve],
        "monotone": probing.rising(found.curve),
        "files": files,
        "kept_for": name,
        "seconds": round(seconds, 1),
        "warnings": console.warnings,
    }
    console.result([*drawn, f"stages {bounds.low}:{bounds.high}", *map(str, files)], document)
