"""`pmagic learn`: learns a persona from one photo, or several of the same person, and keeps it."""

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from pmagic import settings
from pmagic.cli import joint, learned, names, resuming
from pmagic.cli.console import Console
from pmagic.cli.options import AsJson, Quiet, parse_seed, parse_stages
from pmagic.cli.previews import Previews
from pmagic.cli.resuming import LearnArgs
from pmagic.cli.stopping import LeftAtOnce, StopAtStep, Stopped
from pmagic.errors import UsageError
from pmagic.library import naming, unfinished
from pmagic.library.store import Library
from pmagic.tasks import learning
from pmagic.tasks.reporting import duration


def learn(
    photo: Annotated[
        list[Path] | None, typer.Argument(help="A photo or a folder of photos; more of the same person may follow.")
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option("--name", help="Name of the persona; with --together one for each photo.")
    ] = None,
    together: Annotated[
        bool,
        typer.Option(
            "--together",
            help="Learn a persona from each photo, for pictures of them all: custom_diffusion, custom_personamagic.",
        ),
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            help="mini, sd14, sd15, sdxl, dreamlike, a hub id, folder or file.",
            autocompletion=names.bases,
        ),
    ] = None,
    word: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            help="What the photo shows, in one word that the base knows: face (the default), cat, cup, ... "
            "With --together, one for all or one for each photo.",
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
    rank: Annotated[
        int | None,
        typer.Option("--rank", help="Rank of the weight differences; 0 keeps them whole. For methods with weights."),
    ] = None,
    prior: Annotated[
        int | None,
        typer.Option(
            "--prior",
            help="So many class pictures, which the base draws first, keep the class word as it is. "
            "For methods with weights.",
        ),
    ] = None,
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
    pmagic learn alice.jpg bob.jpg --together --name alice --name bob --method custom_diffusion
    pmagic learn --resume
    """
    console = Console(quiet=quiet, as_json=as_json)
    names, words = name or [], word or []
    arguments = LearnArgs(
        photos=tuple(str(each) for each in photo or ()),
        together=tuple(names[1:]) if together else (),
        words=tuple(words) if together else (),
        base=base,
        word=None if together or not words else words[-1],
        style=style,
        face=face,
        mask=None if mask is None else str(mask),
        method=method,
        recipe=recipe,
        iterations=iterations,
        batch=batch,
        learning_rate=learning_rate,
        rank=rank,
        prior=prior,
        stages=stages,
        seed=seed,
        device=device,
        dtype=dtype,
        compile=compiled,
    )
    if resume:
        first, arguments = resuming.recall(settings.library_dir(), names[0] if names else None, arguments)
        names = [first, *arguments.together]
    elif not names:
        raise UsageError("Missing option '--name'", "give the persona a name, as in --name alice")
    elif not together and len(names) > 1:
        raise UsageError(f"one persona has one name, not {len(names)}", "give one --name, or add --together")
    elif together and len(names) < 2:
        raise UsageError("--together learns several personas, and there is one --name", "add --name for each photo")
    if not arguments.photos:
        raise UsageError("Missing argument 'photo'", "give a photo, or --resume to continue a stopped learning")
    names = [naming.check_name(each) for each in names]
    if not arguments.together:
        _learn(console, names[0], arguments, memory=memory, resumed=resume, preview_every=preview_every)
    elif preview_every is not None:
        raise UsageError("--preview-every draws one persona, not several --together", "leave --preview-every out")
    else:
        joint.learn(console, names, arguments, memory=memory, resumed=resume)


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
        rank=arguments.rank,
        prior=arguments.prior,
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
        resuming.start_run(folder, name, arguments, base.spec.name, task.inputs(), resumed=resumed)
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
            raise learned.describe_stop(name, task, folder, at_once=isinstance(stop, LeftAtOnce)) from stop
        # If an earlier run was killed between saving and clearing, the persona is in the library already.
        address = library.find_same(name, persona) if resumed or task.continued else None
        address = address or library.save(name, persona)
        unfinished.clear(folder, f"{address} is learned and kept; ")
    seconds = time.monotonic() - start
    console.say(f'{address} was learned in {duration(seconds)}; next: pmagic render {shlex.quote(name)} "as a cowboy"')
    document = {
        **learned.describe(library, address, persona),
        "previews": previews.files,
        "seconds": round(seconds, 1),
        "warnings": console.warnings,
    }
    console.result([str(address)], document)
