"""`pmagic eval`: identity and prompt scores over many people, and the paper's tables."""

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

_MAX_PICTURES = 1000  # pictures of a prompt
_RAY = 0
_SCORING_OPTIONS = ("pictures", "photos", "prompts", "base", "device", "out", "quiet", "as_json")


def evaluate(
    context: typer.Context,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset", help="lfw, celeba-hq, ffhq, folder, world or world-training.", autocompletion=names.datasets
        ),
    ] = None,
    root: Annotated[Path | None, typer.Option("--root", help="The data set's folder.")] = None,
    people: Annotated[int, typer.Option("--people", help="How many people to take; --seed chooses them.")] = 100,
    repeats: Annotated[int, typer.Option("--repeats", help="How often to repeat, each time with other people.")] = 1,
    prompts: Annotated[
        str | None, typer.Option("--prompts", help="paper, or a file with one prompt a line; {} is the person.")
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", help="Pictures of each prompt.")] = 4,
    seed: Annotated[
        int, typer.Option("--seed", help="A number, or random. It decides people and pictures.", parser=parse_seed)
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
            "--recipe",
            help="paper (as in the tables), tuned (as learn), reference, or several: paper,tuned.",
            autocompletion=names.recipes,
        ),
    ] = "paper",
    iterations: Annotated[
        int | None, typer.Option("--iterations", help="Optimizer steps of each learning (default: the recipe's).")
    ] = None,
    ablation: Annotated[
        str | None,
        typer.Option(
            "--ablation",
            help="Vary one recipe, for methods with stages: "
            "table1, table2 or table5 of the paper, first-stage, stages or bounds.",
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
        str, typer.Option("--workers", help="Number of processes, or ray: a Ray cluster (RAY_ADDRESS, or a local one).")
    ] = "1",
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the evaluation; one that is not finished is continued.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base", help="mini, sd14, sd15, dreamlike, a hub id or a diffusers folder.", autocompletion=names.bases
        ),
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or mps.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="Number type: auto, float32, bfloat16, ...")] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what there is to do, with hours and disk.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Learn and draw many people, and score them. After a stop, the same command continues.

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
        raise UsageError("there is nothing to evaluate", "give --dataset, or --pictures with --photos and --prompts")
    _check(people, repeats, count)
    base_options.check_seeds(seed, count)
    base_options.check_numbers(device, dtype)
    for each in recipe.split(","):
        recipes.settings_for(each, {})
    chosen = tuple(methods.names()) if method == "all" else tuple(method.split(","))
    for each in chosen:
        methods.require(each)
    worker_count = _parse_workers(workers)

    from pmagic import datasets, shelf
    from pmagic.bases import loading
    from pmagic.evaluation import eval_config, eval_context, harness, observers, store

    known = [each.replace("_", "-") for each in shelf.names("datasets")]  # spelled as in --help
    if dataset.replace("_", "-") not in known:
        raise NotFound(f"there is no data set {dataset!r}", f"choose one of: {', '.join(known)}")
    source = shelf.take("datasets", dataset.replace("-", "_"))
    kind = _photo_kind(dataset.replace("-", "_"), photos)
    spec = base_options.choose_base(base)
    quiet_libraries()
    config = eval_config.EvalConfig(
        base=spec.name,
        dataset=dataset.replace("-", "_"),
        methods=chosen,
        recipes=tuple(recipe.split(",")),
        ablation=(ablation or "").replace("-", "_"),
        iterations=iterations,
        photos=kind,
        prompts=_read_prompts(prompts, source.PROMPTS),
        pictures=count,
        seed=seed,
        device=base_options.device(device),
        dtype=dtype,
    )
    variants = eval_context.variants_of(config, spec)
    eval_context.require_observers(spec, variants)
    _check_prompts(console, spec.local_folder, config.prompts, max(each.learn.tokens for each in variants))
    fetches = source.fetches() if root is None else ""
    if fetches and dry_run:
        raise UsageError(
            f"a dry run downloads nothing, but this needs {fetches}", "leave --dry-run out once, or give --root"
        )
    if fetches:
        console.warn(f"this downloads {fetches}; with --root it would not")
    population = source.people(root, kind) if kind else source.people(root)
    for each in source.left_out(root):
        console.warn(f"left out: {each}")
    samples = datasets.sample_people(population, people, repeats, seed)
    individuals = [who for each in samples for who in each]
    subjects, unreadable = harness.people(individuals)
    identity = {
        "fingerprint": loading.fingerprint(spec.local_folder),
        "device": loading.find_device(config.device).type,
        "observers": observers.identity(spec),
    }
    plan = harness.plan(config, [[who.name for who in each] for each in samples], variants, identity)
    keys = [each.key for each in variants]
    folder = out if out is not None else Path(f"eval-{dataset}")
    if dry_run:
        store.check(folder, plan)
        todo = harness.tasks(store.Store(folder), subjects, keys)
        _print_plan(console, config, todo, individuals, unreadable, len(variants), worker_count)
        return
    with store.open_store(folder, plan) as results:
        todo = harness.tasks(results, subjects, keys)
        failures = unreadable | _evaluate(console, config, plan, results, todo, worker_count, len(variants))
        scoring.finish(console, _report(plan, results, individuals, subjects, variants, failures), results)


def _evaluate(
    console: Console,
    config: "EvalConfig",
    plan: "Mapping[str, object]",
    results: "Store",
    todo: "Sequence[Task]",
    worker_count: int,
    variants: int,
) -> "dict[int, Failure]":
    """Does what is left to do, with a progress bar. Raises Stopped when the user stops it."""
    from pmagic.evaluation import harness
    from pmagic.evaluation.harness import Failure

    if not todo:
        return {}
    total, done = variants * len(todo), sum(_count_variants(task.kept) for task in todo)
    with stop_at_step() as check, console.progress(f"evaluating {_people(len(todo))}") as advance:

        def report_progress(doing: str) -> None:
            advance(done, total, doing)
            check()

        def on_event(event: "Event") -> None:
            nonlocal done
            who, what = event
            if isinstance(what, Failure):
                console.warn(f"{who.name}: {what.what}")
            elif what is not None:
                done += what.place.startswith("variants/")
            report_progress(who.name)

        try:
            return harness.run(
                results,
                todo,
                _workers(config, str(plan["fingerprint"]), results, worker_count, report_progress),
                on_event,
            )
        except KeyboardInterrupt as stop:
            raise Stopped(
                f"the evaluation was stopped with {done} of {total} learned and drawn",
                "run the same command to continue from there",
                kept=f"what was finished, in {results.root}",
            ) from stop


def _count_variants(files: "Mapping[str, object]") -> int:
    return sum(place.startswith("variants/") for place in files)


def _workers(
    config: "EvalConfig",
    fingerprint: str,
    results: "Store",
    worker_count: int,
    report_progress: "Callable[[str], None]",
) -> "Workers":
    from pmagic.evaluation import cluster, eval_context, harness, processes

    if worker_count == _RAY:
        return cluster.spread(config, fingerprint, report_progress)
    if worker_count > 1:
        return processes.spread(config, fingerprint, worker_count, results.unfinished, report_progress)
    return harness.run_in_process(eval_context.open_context(config, fingerprint), results, report_progress)


def _report(
    plan: "Mapping[str, Any]",
    results: "Store",
    individuals: "Sequence[Individual]",
    subjects: "Sequence[EvalSubject]",
    variants: "Sequence[Variant]",
    failures: "Mapping[int, Failure]",
) -> "Report":
    from pmagic.evaluation import report, scores

    people = {who.number: who for who in subjects}
    person_scores, stages = scores.scores_of(results, people, [each.key for each in variants], len(plan["prompts"]))
    return report.Report(
        about=plan,
        rows=[report.Row(each.key, each.title, each.table, each.label) for each in variants],
        prompts=plan["prompts"],
        people=people,
        names=[name for each in plan["people"] for name in each],
        traits={number: who.traits for number, who in enumerate(individuals, 1)},
        scores=person_scores,
        stages=stages,
        faceless={each["person"]: each["faceless"] for of in stages.values() for each in of if each.get("faceless")},
        failures=failures,
        pictures=results.root,
    )


def _print_plan(
    console: Console,
    config: "EvalConfig",
    todo: "Sequence[Task]",
    individuals: "Sequence[Individual]",
    unreadable: "Mapping[int, Failure]",
    variants: int,
    worker_count: int,
) -> None:
    """Prints what is left to do and what it will take, measured on the first person who can be learned."""
    from pmagic.evaluation import estimate, eval_context

    work = estimate.estimate(eval_context.open_context(config), todo)
    failures = {**unreadable, **work.failures}
    for which, each in sorted(failures.items()):
        console.warn(f"{individuals[which - 1].name}: {each.what}")
    spread = 1 if worker_count == _RAY else min(worker_count, max(1, work.people))
    document = {
        "people": len(individuals),
        "people_left": work.people,
        "people_refused": len(failures),
        "variants": variants,
        "prompts": len(config.prompts),
        "pictures_of_each": config.pictures,
        "learnings_left": work.learnings,
        "pictures_left": work.pictures,
        "hours": round(work.seconds / spread / 3600, 3),
        "workers": "ray" if worker_count == _RAY else worker_count,
        "bytes": work.bytes,
    }
    lines = [
        f"{_people(len(individuals))} x {_count(variants, 'variant')} x {_count(len(config.prompts), 'prompt')} x "
        f"{_count(config.pictures, 'picture')}",
        f"left: {_people(work.people)}, at most {_count(work.learnings, 'learning')} and "
        f"{_count(work.pictures, 'picture')}" + (f"; refused: {_people(len(failures))}" if failures else ""),
        f"time: about {duration(work.seconds / spread)}" + (" with one worker" if worker_count == _RAY else ""),
        f"disk: about {work.bytes / 1e6:.0f} MB",
    ]
    console.result(lines, document)


def _people(number: int) -> str:
    return "1 person" if number == 1 else f"{number} people"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + "s" * (number != 1)


def _read_prompts(text: str | None, own: "tuple[str, ...] | None") -> "tuple[str, ...]":
    """The prompts of the paper, of a file, or of the data set. Raises NotFound or UsageError."""
    from pmagic.evaluation import prompts

    if text is None and own is not None:
        return own
    return prompts.PAPER if text in (None, "paper") else prompts.read(Path(text))


def _photo_kind(dataset: str, photos: Path | None) -> str:
    """Which kind of photos to learn from; "" for a data set with only one kind. Raises UsageError."""
    from pmagic import datasets

    kinds = datasets.list_photo_kinds(dataset)
    if photos is None:
        return kinds[0] if kinds else ""
    if not kinds:
        raise UsageError(
            "--photos goes with --pictures, or with a data set that has several kinds of photos",
            "to learn from a folder use --dataset folder --root DIR",
        )
    if str(photos) not in kinds:
        raise UsageError(f"{dataset} has no photos {str(photos)!r}", f"choose one of: {', '.join(kinds)}")
    return str(photos)


def _check_prompts(console: Console, folder: Path, texts: "Sequence[str]", tokens: int) -> None:
    """Raises UsageError if a name is cut off. Warns if other text is."""
    from pmagic.engine import prompts

    tokenizer = prompts.load_tokenizer(folder)
    for prompt in texts:
        placed = prompts.check_prompt(tokenizer, prompt, tokens)
        if placed.cut:
            console.warn(f"the prompt {prompt!r} is too long; the base does not read: {placed.cut!r}")
    warn_of_instructions(console, texts)


def _check_scoring(context: typer.Context) -> None:
    """Raises UsageError for options that have no effect on finished pictures."""
    others = [
        each.opts[0]
        for each in context.command.params
        if each.name not in _SCORING_OPTIONS and _is_typed(context, each.name)
    ]
    if others:
        raise UsageError(f"--pictures scores finished pictures, so it takes no {', '.join(others)}", "leave it out")


def _is_typed(context: typer.Context, parameter: str) -> bool:
    """Whether the parameter stands on the command line, not only in its default."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


def _check(people: int, repeats: int, count: int) -> None:
    for name, value, most in (("--people", people, 10**6), ("--repeats", repeats, 1000), ("-n", count, _MAX_PICTURES)):
        if not 1 <= value <= most:
            raise UsageError(f"{name} must be 1 to {most}, not {value}", f"give for example {name} 4")


def _parse_workers(text: str) -> int:
    """The number that --workers gives; `_RAY` for a cluster."""
    if text == "ray":
        from pmagic.evaluation import cluster

        cluster.require()
        return _RAY
    worker_count = number(text)
    if worker_count is None or not 1 <= worker_count <= 1024:
        raise UsageError(f"--workers cannot be {text[:80]!r}", "give a number of processes, or ray")
    return worker_count
