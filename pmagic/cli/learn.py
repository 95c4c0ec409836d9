"""`pmagic learn`: learns a persona from one photo, or several of the same person, and keeps it."""

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

import pmagic
from pmagic import settings
from pmagic.cli import names, resuming
from pmagic.cli.console import Console
from pmagic.cli.options import AsJson, Quiet, parse_seed, parse_stages
from pmagic.cli.previews import Previews
from pmagic.cli.resuming import LearnArgs
from pmagic.cli.stopping import LeftAtOnce, StopAtStep, Stopped
from pmagic.errors import UsageError
from pmagic.library import naming, unfinished
from pmagic.library.store import Library
from pmagic.tasks import learning
from pmagic.tasks.learning import Learning
from pmagic.tasks.reporting import duration


def learn(
    photo: Annotated[
        list[Path] | None, typer.Argument(help="A photo or a folder of photos; more of the same person may follow.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the persona.")] = None,
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
    style: Annotated[
        bool, typer.Option("--style", help="Learn how the pictures are made, not what they show.")
    ] = False,
    face: Annotated[int | None, typer.Option("--face", help="Which face in the photo; 1 is the largest.")] = None,
    mask: Annotated[Path | None, typer.Option("--mask", help="Picture that is white where the subject is.")] = None,
    method: Annotated[
        str,
        typer.Option("--method", help="Learning method; `pmagic methods` lists them.", autocompletion=names.methods),
    ] = "personamagic",
    recipe: Annotated[
        str,
        typer.Option("--recipe", help="Named set of values: tuned, paper or reference.", autocompletion=names.recipes),
    ] = "tuned",
    iterations: Annotated[int | None, typer.Option("--iterations", help="Optimizer steps.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Samples per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="Effective learning rate.")] = None,
    stages: Annotated[
        str | None,
        typer.Option("--stages", help="Dynamic interval in timesteps, LOW:HIGH, as in 400:800, instead of a probe."),
    ] = None,
    seed: Annotated[
        int,
        typer.Option("--seed", help="A number, or random. The same seed learns the same persona.", parser=parse_seed),
    ] = 0,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or mps.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="Number type: auto, float32, bfloat16, ...")] = "auto",
    memory: Annotated[
        str, typer.Option("--memory", help="auto, normal, or low: the same result with less memory, more slowly.")
    ] = "auto",
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile", help="Compile the UNet first: minutes once, then faster steps. Reports whether it pays."
        ),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a learning that was stopped; --name chooses one of several.")
    ] = False,
    preview_every: Annotated[
        int | None, typer.Option("--preview-every", help="Draw a portrait after every so many iterations.", min=1)
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Learn a person from one photo. After a stop, `pmagic learn --resume` continues.

    \b
    pmagic learn alice.jpg --name alice
    pmagic learn cat.png --name tom --class cat --base mini
    pmagic learn --resume
    """
    console = Console(quiet=quiet, as_json=as_json)
    paths = [str(each) for each in photo or ()]
    arguments = LearnArgs(
        photos=tuple(paths),
        base=base,
        word=word,
        style=style,
        face=face,
        mask=None if mask is None else str(mask),
        method=method,
        recipe=recipe,
        iterations=iterations,
        batch=batch,
        learning_rate=learning_rate,
        stages=stages,
        seed=seed,
        device=device,
        dtype=dtype,
        compile=compiled,
    )
    if resume:
        name, arguments = resuming.recall(settings.library_dir(), name, arguments)
    elif name is None:
        raise UsageError("Missing option '--name'", "give the persona a name, as in --name alice")
    if not arguments.photos:
        raise UsageError("Missing argument 'photo'", "give a photo, or --resume to continue a stopped learning")
    _learn(console, naming.check_name(name), arguments, memory=memory, resumed=resume, preview_every=preview_every)


def _learn(
    console: Console, name: str, arguments: LearnArgs, *, memory: str, resumed: bool, preview_every: int | None
) -> None:
    library = Library(settings.library_dir())
    library.require_free(name)
    task = learning.prepare(
        console,
        [Path(each) for each in arguments.photos],
        base=arguments.base,
        word=arguments.word,
        style=arguments.style,
        face=arguments.face,
        mask=None if arguments.mask is None else Path(arguments.mask),
        method=arguments.method,
        recipe=arguments.recipe,
        iterations=arguments.iterations,
        batch=arguments.batch,
        learning_rate=arguments.learning_rate,
        bounds=parse_stages(arguments.stages),
        seed=arguments.seed,
        device=arguments.device,
        dtype=arguments.dtype,
        memory=memory,
        compiles=arguments.compile,
    )
    base, count = task.base, len(task.photos.images)
    library.require_same_base(name, base.name, base.fingerprint)
    console.say(
        f"learning {name} from {count} photo{'s' * (count > 1)} on {base.spec.name} "
        f"({base.device}, {base.computes_in}): {task.settings.iterations} iterations of {task.settings.batch}"
    )
    start = time.monotonic()
    previews = Previews(console, task, name, preview_every)
    with unfinished.locked_run(library.root, name) as folder:
        inputs = {**task.inputs(), "pmagic": pmagic.__version__}
        if resumed:
            resuming.require_same_inputs(folder, name, arguments, inputs)
        resuming.keep(folder, arguments.on(base.spec.name))
        unfinished.keep_inputs(folder, inputs)
        try:
            persona = task.run(
                StopAtStep(console),
                name=name,
                folder=folder,
                resumed=resumed,
                anew=f"start over with `{resuming.command(name, arguments)}`",
                on_step=previews.after_step,
            )
        except (KeyboardInterrupt, Stopped) as stop:
            raise _describe_stop(name, task, folder, at_once=isinstance(stop, LeftAtOnce)) from stop
        # If an earlier run was killed between saving and clearing, the persona is in the library already.
        address = library.find_same(name, persona) if resumed or task.continued else None
        address = address or library.save(name, persona)
        unfinished.clear(folder, f"{address} is learned and kept; ")
    seconds = time.monotonic() - start
    console.say(f'{address} was learned in {duration(seconds)}; next: pmagic render {shlex.quote(name)} "as a cowboy"')
    document = {
        "persona": str(address),
        "folder": naming.folder_of(library.root, address),
        "base": persona.base,
        "word": persona.word,
        "method": persona.method,
        "bounds": [persona.bounds.low, persona.bounds.high],
        "curve": [list(point) for point in persona.curve],
        "settings": dict(persona.settings),
        "losses": dict(persona.losses),
        "previews": previews.files,
        "seconds": round(seconds, 1),
        "warnings": console.warnings,
    }
    console.result([str(address)], document)


def _describe_stop(name: str, task: Learning, folder: Path, *, at_once: bool) -> Stopped:
    """The message after a stop: where learning was, what is kept, and how to continue."""
    resume_command = f"pmagic learn --resume --name {shlex.quote(name)}"
    if task.phase == learning.COMPILING:
        return Stopped(
            f"learning {name} was stopped while compiling",
            f"to continue: {resume_command}",
            kept="the learning as it was before",
        )
    if task.phase == learning.FINDING:
        when = "while finding its stages"
    elif not task.has_checkpoint(folder):
        when = "before its first step"
    else:
        steps = f"after {task.step} of {task.settings.iterations} iterations"
        when = "at once, in the middle of a step" if at_once else steps
        return Stopped(
            f"learning {name} was stopped {when}",
            f"to continue from there: {resume_command}",
            kept="what was learned so far",
        )
    return Stopped(
        f"learning {name} was stopped {when}", f"to start again: {resume_command}", kept="the options of the command"
    )
