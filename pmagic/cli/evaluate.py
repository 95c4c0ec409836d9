"""`pmagic eval`: how like and how obedient, over many people; the paper's tables from one command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pmagic import methods
from pmagic.cli import names, scoring
from pmagic.cli.console import Console
from pmagic.cli.options import AsJson, Quiet, number, parse_seed
from pmagic.cli.stopping import Stopped, stop_at_step
from pmagic.engine import recipes
from pmagic.errors import NotFound, UsageError
from pmagic.tasks import base_options
from pmagic.tasks.base_options import quiet_libraries
from pmagic.tasks.drawing import warn_of_instructions
from pmagic.tasks.reporting import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pmagic.datasets import Individual
    from pmagic.evaluation.eval_config import EvalConfig, EvalSubject
    from pmagic.evaluation.harness import Event, Failure, Task, Workers
    from pmagic.evaluation.report import Report
    from pmagic.evaluation.store import Store
    from pmagic.evaluation.variants import Variant

_MOST = 1000  # pictures of a prompt
_RAY = 0
_OF_SCORING = ("pictures", "photos", "prompts", "base", "device", "out", "quiet", "as_json")


def evaluate(
    context: typer.Context,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset", help="lfw, celeba-hq, ffhq, folder, world or world-training.", autocompletion=names.datasets
        ),
    ] = None,
    root: Annotated[Path | None, typer.Option("--root", help="The data set's folder.")] = None,
    people: Annotated[int, typer.Option("--people", help="How many people are drawn, by the seed.")] = 100,
    repeats: Annotated[int, typer.Option("--repeats", help="How often, each time other people.")] = 1,
    prompts: Annotated[
        str | None, typer.Option("--prompts", help="paper, or a file with one prompt a line; {} is the person.")
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", help="Pictures of each prompt.")] = 4,
    seed: Annotated[
        int, typer.Option("--seed", help="A number, or random: of the people and of the pictures.", parser=parse_seed)
    ] = 0,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="How to learn, or several: personamagic,textual_inversion, or all.",
            autocompletion=names.methods,
        ),
    ] = methods.DEFAULT,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", help="paper, tuned, reference, or several: paper,reference.", autocompletion=names.recipes
        ),
    ] = "paper",
    iterations: Annotated[
        int | None, typer.Option("--iterations", help="Optimiser steps of each learning; the recipe says how many.")
    ] = None,
    ablation: Annotated[
        str | None,
        typer.Option(
            "--ablation",
            help="Of one recipe, for methods with stages: "
            "table1, table2, table5 of the paper, first-stage, stages or bounds.",
            autocompletion=names.ablations,
        ),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", help="Score these pictures of another tool: PICTURES/NAME/01-a.png.")
    ] = None,
    photos: Annotated[
        Path | None,
        typer.Option(
            "--photos",
            help="With --dataset world: learn from portraits or from snapshots. "
            "With --pictures: the people's photos, NAME.jpg or NAME/*.jpg.",
        ),
    ] = None,
    workers: Annotated[
        str, typer.Option("--workers", help="How many processes, or ray: a Ray cluster (RAY_ADDRESS, or a local one).")
    ] = "1",
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the evaluation; the same one goes on where it was.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base", help="mini, sd14, sd15, dreamlike, a hub id or a diffusers folder.", autocompletion=names.bases
        ),
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or mps.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="Number type: auto, float32, bfloat16, ...")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what there is to do, hours and disk.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Learn and draw many people, and score them. Stopped, the same command goes on where it was.

    \b
    pmagic eval --dataset world --base mini --people 10 --dry-run
    pmagic eval --dataset lfw --root ~/lfw --recipe paper,reference
    pmagic eval --dataset lfw --root ~/lfw --method personamagic,textual_inversion
    pmagic eval --pictures drawn --photos people --prompts prompts.txt
    """
    console = Console(quiet=quiet, as_json=as_json)
    if pictures is not None:
        _check_scoring(context)
        scoring.score(console, pictures, photos, prompts, base, base_options.device(device), out)
        return
    if dataset is None:
        raise UsageError("nothing is named to evaluate", "give --dataset, or --pictures with --photos and --prompts")
    _check(people, repeats, count)
    base_options.check_seeds(seed, count)
    base_options.check_numbers(device, dtype)
    for each in recipe.split(","):
        recipes.settings_for(each, {})
    chosen = tuple(methods.names()) if method == "all" else tuple(method.split(","))
    for each in chosen:
        methods.require(each)
    hands = _hands(workers)

    from pmagic import datasets, shelf
    from pmagic.bases import loading
    from pmagic.evaluation import eval_config, eval_context, harness, observers, store

    known = [each.replace("_", "-") for each in shelf.names("datasets")]  # as --help has them
    if dataset.replace("_", "-") not in known:
        raise NotFound(f"there is no data set {dataset!r}", f"choose one of: {', '.join(known)}")
    source = shelf.take("datasets", dataset.replace("-", "_"))
    sort = _sort_of_photos(dataset.replace("-", "_"), photos)
    spec = base_options.choose_base(base)
    quiet_libraries()
    asked = eval_config.EvalConfig(
        base=spec.name,
        dataset=dataset.replace("-", "_"),
        methods=chosen,
        recipes=tuple(recipe.split(",")),
        ablation=(ablation or "").replace("-", "_"),
        iterations=iterations,
        photos=sort,
        prompts=_read_prompts(prompts, source.PROMPTS),
        pictures=count,
        seed=seed,
        device=base_options.device(device),
        dtype=dtype,
    )
    variants = eval_context.variants_of(asked, spec)
    eval_context.require_observers(spec, variants)
    _check_prompts(console, spec.local_folder, asked.prompts, max(each.learn.tokens for each in variants))
    fetches = source.fetches() if root is None else ""
    if fetches and dry_run:
        raise UsageError(
            f"a dry run fetches nothing, and this needs {fetches}", "leave --dry-run out once, or give --root"
        )
    if fetches:
        console.warn(f"this fetches {fetches}; with --root it would not")
    everyone = source.people(root, sort) if sort else source.people(root)
    for each in source.left_out(root):
        console.warn(f"left out: {each}")
    drawn = datasets.drawn(everyone, people, repeats, seed)
    sample = [who for each in drawn for who in each]
    sitters, unread = harness.people(sample)
    about = {
        "fingerprint": loading.fingerprint(spec.local_folder),
        "device": loading.device_named(asked.device).type,
        "observers": observers.identity(spec),
    }
    plan = harness.plan(asked, [[who.name for who in each] for each in drawn], variants, about)
    keys = [each.key for each in variants]
    folder = out if out is not None else Path(f"eval-{dataset}")
    if dry_run:
        store.check(folder, plan)
        todo = harness.tasks(store.Store(folder), sitters, keys)
        _tell_plan(console, asked, todo, sample, unread, len(variants), hands)
        return
    with store.opened(folder, plan) as kept:
        todo = harness.tasks(kept, sitters, keys)
        failures = unread | _carry_out(console, asked, plan, kept, todo, hands, len(variants))
        scoring.finish(console, _report(plan, kept, sample, sitters, variants, failures), kept)


def _carry_out(
    console: Console,
    asked: "EvalConfig",
    plan: "Mapping[str, object]",
    kept: "Store",
    todo: "Sequence[Task]",
    hands: int,
    variants: int,
) -> "dict[int, Failure]":
    """Everything that is left to do, with a bar; stopped by the person it ends in `Stopped`."""
    from pmagic.evaluation import harness
    from pmagic.evaluation.harness import Failure

    if not todo:
        return {}
    total, done = variants * len(todo), sum(_variants_of(task.kept) for task in todo)
    with stop_at_step() as check, console.progress(f"evaluating {_people(len(todo))}") as advance:

        def told(doing: str) -> None:
            advance(done, total, doing)
            check()

        def on_event(event: "Event") -> None:
            nonlocal done
            who, what = event
            if isinstance(what, Failure):
                console.warn(f"{who.name}: {what.what}")
            elif what is not None:
                done += what.place.startswith("variants/")
            told(who.name)

        try:
            return harness.run(kept, todo, _workers(asked, str(plan["fingerprint"]), kept, hands, told), on_event)
        except KeyboardInterrupt as stop:
            raise Stopped(
                f"the evaluation was stopped with {done} of {total} learned and drawn",
                "run the same command to go on from there",
                kept=f"what was finished, in {kept.root}",
            ) from stop


def _variants_of(kept: "Mapping[str, object]") -> int:
    return sum(place.startswith("variants/") for place in kept)


def _workers(
    asked: "EvalConfig", fingerprint: str, kept: "Store", hands: int, told: "Callable[[str], None]"
) -> "Workers":
    from pmagic.evaluation import cluster, eval_context, harness, processes

    if hands == _RAY:
        return cluster.spread(asked, fingerprint, told)
    if hands > 1:
        return processes.spread(asked, fingerprint, hands, kept.unfinished, told)
    return harness.alone(eval_context.open_context(asked, fingerprint), kept, told)


def _report(
    plan: "Mapping[str, Any]",
    kept: "Store",
    sample: "Sequence[Individual]",
    sitters: "Sequence[EvalSubject]",
    variants: "Sequence[Variant]",
    failures: "Mapping[int, Failure]",
) -> "Report":
    from pmagic.evaluation import report, scores

    people = {who.number: who for who in sitters}
    found, stages = scores.scores_of(kept, people, [each.key for each in variants], len(plan["prompts"]))
    return report.Report(
        about=plan,
        rows=[report.Row(each.key, each.title, each.table, each.label) for each in variants],
        prompts=plan["prompts"],
        people=people,
        names=[name for each in plan["people"] for name in each],
        traits={number: who.traits for number, who in enumerate(sample, 1)},
        scores=found,
        stages=stages,
        faceless={each["person"]: each["faceless"] for of in stages.values() for each in of if each.get("faceless")},
        failures=failures,
        pictures=kept.root,
    )


def _tell_plan(
    console: Console,
    asked: "EvalConfig",
    todo: "Sequence[Task]",
    sample: "Sequence[Individual]",
    unread: "Mapping[int, Failure]",
    variants: int,
    hands: int,
) -> None:
    """What is left to do, and what it takes: measured on the first person of it who can be learned."""
    from pmagic.evaluation import estimate, eval_context

    found = estimate.estimate(eval_context.open_context(asked), todo)
    failures = {**unread, **found.failures}
    for which, each in sorted(failures.items()):
        console.warn(f"{sample[which - 1].name}: {each.what}")
    spread = 1 if hands == _RAY else min(hands, max(1, found.people))
    document = {
        "people": len(sample),
        "people_left": found.people,
        "people_refused": len(failures),
        "variants": variants,
        "prompts": len(asked.prompts),
        "pictures_of_each": asked.pictures,
        "learnings_left": found.learnings,
        "pictures_left": found.pictures,
        "hours": round(found.seconds / spread / 3600, 3),
        "workers": "ray" if hands == _RAY else hands,
        "bytes": found.bytes,
    }
    lines = [
        f"{_people(len(sample))} x {_count(variants, 'variant')} x {_count(len(asked.prompts), 'prompt')} x "
        f"{_count(asked.pictures, 'picture')}",
        f"left: {_people(found.people)}, at most {_count(found.learnings, 'learning')} and "
        f"{_count(found.pictures, 'picture')}" + (f"; refused: {_people(len(failures))}" if failures else ""),
        f"time: about {duration(found.seconds / spread)}" + (" with one worker" if hands == _RAY else ""),
        f"disk: about {found.bytes / 1e6:.0f} MB",
    ]
    console.result(lines, document)


def _people(number: int) -> str:
    return "1 person" if number == 1 else f"{number} people"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + "s" * (number != 1)


def _read_prompts(asked: str | None, own: "tuple[str, ...] | None") -> "tuple[str, ...]":
    """The paper's, a file's, or the data set's own. Raises NotFound or UsageError."""
    from pmagic.evaluation import prompts

    if asked is None and own is not None:
        return own
    return prompts.PAPER if asked in (None, "paper") else prompts.read(Path(asked))


def _sort_of_photos(dataset: str, asked: Path | None) -> str:
    """The sort of the data set's photos that is learned from, "" where it has one. Raises UsageError."""
    from pmagic import datasets

    sorts = datasets.sorts_of(dataset)
    if asked is None:
        return sorts[0] if sorts else ""
    if not sorts:
        raise UsageError(
            "--photos goes with --pictures, or with a data set that has several sorts of photos",
            "to learn from a folder use --dataset folder --root DIR",
        )
    if str(asked) not in sorts:
        raise UsageError(f"{dataset} has no photos {str(asked)!r}", f"choose one of: {', '.join(sorts)}")
    return str(asked)


def _check_prompts(console: Console, folder: Path, asked: "Sequence[str]", tokens: int) -> None:
    """UsageError where a name is cut off; a warning where something else is."""
    from pmagic.engine import prompts

    tokenizer = prompts.load_tokenizer(folder)
    for prompt in asked:
        placed = prompts.check_prompt(tokenizer, prompt, tokens)
        if placed.cut:
            console.warn(f"the prompt {prompt!r} is too long; the base does not read: {placed.cut!r}")
    warn_of_instructions(console, asked)


def _check_scoring(context: typer.Context) -> None:
    """UsageError for what would say nothing about pictures that are there already."""
    others = [
        each.opts[0]
        for each in context.command.params
        if each.name not in _OF_SCORING and _is_typed(context, each.name)
    ]
    if others:
        raise UsageError(f"--pictures are there already: {', '.join(others)} cannot be obeyed", "leave it out")


def _is_typed(context: typer.Context, parameter: str) -> bool:
    """Whether the parameter stands on the command line, not only in its default."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


def _check(people: int, repeats: int, count: int) -> None:
    for name, value, most in (("--people", people, 10**6), ("--repeats", repeats, 1000), ("-n", count, _MOST)):
        if not 1 <= value <= most:
            raise UsageError(f"{name} must be 1 to {most}, not {value}", f"give for example {name} 4")


def _hands(text: str) -> int:
    """--workers as a number; `_RAY` for a cluster."""
    if text == "ray":
        from pmagic.evaluation import cluster

        cluster.require()
        return _RAY
    hands = number(text)
    if hands is None or not 1 <= hands <= 1024:
        raise UsageError(f"--workers cannot be {text[:80]!r}", "give a number of processes, or ray")
    return hands
