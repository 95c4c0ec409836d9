"""`pmagic probe`: finds the part of the schedule to learn in, for a photo on a base."""

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from pmagic import atomic_io, settings
from pmagic.cli import curves, names
from pmagic.cli.console import Console
from pmagic.cli.options import AsJson, Quiet, parse_seed
from pmagic.cli.stopping import StopAtStep, Stopped
from pmagic.errors import UsageError
from pmagic.library import naming, probes, unfinished
from pmagic.tasks import probe_step, probing
from pmagic.tasks.reporting import duration


def probe(
    photo: Annotated[
        list[Path], typer.Argument(help="A photo or a folder of photos; more of the same person may follow.")
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", help="Keep the result for `pmagic learn --name` with the same photo and base."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base", help="mini, sd14, sd15, dreamlike, a hub id or a diffusers folder.", autocompletion=names.bases
        ),
    ] = None,
    word: Annotated[
        str | None,
        typer.Option(
            "--class", help="What the photo shows, in one word that the base knows: face (the default), cat, cup, ..."
        ),
    ] = None,
    face: Annotated[int | None, typer.Option("--face", help="Which face in the photo; 1 is the largest.")] = None,
    mask: Annotated[Path | None, typer.Option("--mask", help="Picture that is white where the subject is.")] = None,
    seed: Annotated[
        int,
        typer.Option("--seed", help="A number, or random. The same seed finds the same stages.", parser=parse_seed),
    ] = 0,
    out: Annotated[Path, typer.Option("--out", help="Folder for the plot and the attention maps.")] = Path(),
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or mps.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="Number type: auto, float32, bfloat16, ...")] = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find the stages of a photo: train briefly, then show where the base attends at each timestep.

    \b
    pmagic probe alice.jpg --base sd14
    pmagic probe alice.jpg --name alice --out plots
    """
    console = Console(quiet=quiet, as_json=as_json)
    name = None if name is None else naming.check_name(name)
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out cannot be {out}: it is a file", "give a folder")

    def make_out() -> None:
        with atomic_io.storing(f"the plots in {out}"):
            atomic_io.make_folder(out)  # before the work: a folder that cannot be written costs no time

    task = probing.prepare(
        console,
        photo,
        base=base,
        word=word,
        face=face,
        mask=mask,
        seed=seed,
        device=device,
        dtype=dtype,
        before_opening=make_out,
    )
    start = time.monotonic()
    try:
        result = task.run(StopAtStep(console))
    except KeyboardInterrupt as stop:
        raise Stopped("the probe was stopped while finding its stages", "run the same command again") from stop
    seconds = time.monotonic() - start

    from pmagic.engine import plots
    from pmagic.engine import probe as engine_probe

    levels = (task.settings.iou_low, task.settings.iou_high)
    stem = photo[0].stem
    with atomic_io.storing(f"the plots in {out}"):
        files = [
            atomic_io.publish_file(plots.curve_plot(result, levels), out / f"{stem}-stages.png"),
            atomic_io.publish_file(plots.attention_strip(result, task.square), out / f"{stem}-attention.png"),
        ]
    if name is not None:
        library = settings.library_dir()
        with unfinished.locked_run(library, name) as folder:
            probes.keep(folder, task.shared_inputs(), probe_step.as_found(result))
        console.say(f"kept: pmagic learn {shlex.quote(str(photo[0]))} --name {shlex.quote(name)} will not probe again")
    console.say(f"found the stages in {duration(seconds)}")
    bounds = result.bounds
    plot_lines = [] if quiet else curves.plot(result.curve, bounds.low, bounds.high, levels)
    document = {
        "base": task.base.spec.name,
        "word": task.photos.word,
        "photos": task.photos.hashes,
        "bounds": [bounds.low, bounds.high],
        "fell_back": result.fallback_reason,
        "iou_low": task.settings.iou_low,
        "iou_high": task.settings.iou_high,
        "curve": [list(point) for point in result.curve],
        "monotone": engine_probe.isotonic(result.curve),
        "files": files,
        "kept_for": name,
        "seconds": round(seconds, 1),
        "warnings": console.warnings,
    }
    console.result([*plot_lines, f"stages {bounds.low}:{bounds.high}", *map(str, files)], document)
