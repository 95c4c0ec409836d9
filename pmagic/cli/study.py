"""`pmagic study`: makes, serves and scores a study in which people choose between pictures of an evaluation."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmagic.cli import names
from pmagic.cli.console import Console, table
from pmagic.cli.options import AsJson, Quiet, parse_seed
from pmagic.errors import NotFound, UsageError

if TYPE_CHECKING:
    from pmagic.study.folder import Study
    from pmagic.study.results import Results
    from pmagic.study.server import Server

LOOPBACK = ("127.0.0.1", "::1", "localhost")
EVERY_ADDRESS = ("0.0.0.0", "::")
_MAX_QUESTIONS = 1000
_SHOWN = 6  # names that a warning lists
app = typer.Typer(
    help="Let people choose between pictures of an evaluation (the paper's Table 4).",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command("make")
def make(
    evaluation: Annotated[Path, typer.Argument(help="The folder of an evaluation (--out of `pmagic eval`).")],
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods", help="Which rows to compare: personamagic,lora (default: all).", autocompletion=names.methods
        ),
    ] = None,
    questions: Annotated[
        int, typer.Option("--questions", help="Questions for each participant, besides the checks.")
    ] = 40,
    checks: Annotated[int, typer.Option("--checks", help="Attention checks, whose answer is known; 0 for none.")] = 8,
    root: Annotated[
        Path | None, typer.Option("--root", help="The data set's folder, as for `pmagic eval`: the photos are there.")
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", help="A number, or random. It decides the questions.", parser=parse_seed)
    ] = 0,
    out: Annotated[Path, typer.Option("--out", help="The new folder of the study.")] = Path("study"),
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Make a page on which people choose between two pictures. It is one file that loads and sends nothing.

    \b
    pmagic study make eval-world --methods personamagic,lora --out study
    pmagic study make eval-lfw --root ~/lfw --questions 60 --seed 1
    """
    if not 1 <= questions <= _MAX_QUESTIONS:
        raise UsageError(
            f"--questions must be 1 to {_MAX_QUESTIONS}, not {questions}", "give for example --questions 40"
        )
    if not 0 <= checks <= _MAX_QUESTIONS:
        raise UsageError(f"--checks must be 0 to {_MAX_QUESTIONS}, not {checks}", "give for example --checks 8")

    from pmagic.study import folder, page, source
    from pmagic.study import questions as asking

    console = Console(quiet=quiet, as_json=as_json)
    found = source.read(evaluation, root, methods.split(",") if methods else ())
    if found.missing:
        more = f" and {len(found.missing) - _SHOWN} more" if len(found.missing) > _SHOWN else ""
        console.warn(f"the evaluation has no pictures yet of {', '.join(found.missing[:_SHOWN])}{more}: left out")
    chosen = asking.choose(found, questions, checks, seed)
    study = folder.write(out, found, chosen, seed)
    place = folder.page_path(out)
    if page.is_large(place):
        console.warn(
            f"{place} has {place.stat().st_size / 1e6:.0f} MB, which phones load slowly: ask fewer --questions"
        )
    people = len({each.person for each in chosen})
    who = "one person" if people == 1 else f"{people} people"
    console.say(f"{place} shows pictures of {who}: give it only to those whom you invite")
    console.say(f"keep {out / folder.KEY}, which says which picture is whose, to yourself")
    document = {
        "study": study.id,
        "page": str(place),
        "key": str(out / folder.KEY),
        "methods": [each.key for each in study.methods],
        "people": people,
        "questions": questions,
        "checks": checks,
        "warnings": console.warnings,
    }
    console.result([str(place)], document)


@app.command("serve")
def serve(
    study: Annotated[Path, typer.Argument(help="The folder of a study.")],
    port: Annotated[int, typer.Option("--port", help="The port to listen on; 0 takes a free one.")] = 8000,
    host: Annotated[
        str, typer.Option("--host", help="The address to listen on. By default only this machine can connect.")
    ] = "127.0.0.1",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Serve the page to participants, and keep each answer on the disk before it is confirmed. Ctrl-C ends it.

    The printed address holds the access token. After a stop the same command goes on, also for open pages.

    \b
    pmagic study serve study
    pmagic study serve study --port 8000 --host 192.168.1.5
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"--port must be 0 to 65535, not {port}", "give for example --port 8000")
    if not host:
        raise UsageError("--host is empty", "give an address of this machine, such as --host 127.0.0.1")

    from pmagic.study import folder, server

    console = Console(quiet=quiet, as_json=as_json)
    with server.open_server(study, host, port, console.warn) as running:
        if host not in LOOPBACK:
            console.warn("everyone in this network who has the address sees the photos, and nothing is encrypted")
        if host in EVERY_ADDRESS:
            console.warn(f"{host} stands for every address of this machine: give participants one of these instead")
        in_url = f"[{host}]" if ":" in host else host
        address = f"http://{in_url}:{running.server_port}/?token={running.token}"
        kept = study / folder.ANSWERS
        console.result([address], {"address": address, "port": running.server_port, "answers": str(kept)})
        console.say(f"give this address to the participants; answers go to {kept}; Ctrl-C ends it")
        _run(running)
    files = len(list(kept.glob("*.jsonl")))
    console.say(f"stopped; {kept} has the answers of {files} participant{'s' * (files != 1)}")


def _run(running: "Server") -> None:
    """Serves until the user stops it, which is no failure. What is being answered is finished."""
    try:
        running.serve_forever()
    except KeyboardInterrupt:
        return


@app.command("score")
def score(
    study: Annotated[Path, typer.Argument(help="The folder of a study.")],
    answers: Annotated[
        list[Path] | None,
        typer.Argument(help="The files that participants sent back (default: what `pmagic study serve` has kept)."),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score the answers: preferences with intervals, strengths, agreement, and who failed the attention checks.

    \b
    pmagic study score study
    pmagic study score study answers/*.json
    """
    from pmagic.study import answers as reading
    from pmagic.study import folder, report, results

    console = Console(quiet=quiet, as_json=as_json)
    key = folder.read(study)
    files = answers or sorted((study / folder.ANSWERS).glob("*.jsonl"))
    if not files:
        raise NotFound(
            f"there are no answers in {study / folder.ANSWERS}",
            f"give the files that participants sent back: pmagic study score {study} answers/*.json",
        )
    everyone, problems = reading.read(files, key)
    found = results.summarize(key, everyone, problems)
    for each in problems:
        console.warn(each)
    for who, reason in found.left_out.items():
        console.warn(f"{who} is left out: {reason}")
    if not found.participants:
        raise NotFound(
            f"no participant is left to count, of {len(files)} file{'s' * (len(files) != 1)}",
            _advice_without_participants(key, found),
        )
    for each in results.caveats(found):
        console.warn(each)
    written = report.write(found, study)
    document = {**results.document(found), "files": [str(each) for each in written]}
    console.result([str(written[-1])] if quiet else [*_lines(found), str(written[-1])], document)


def _advice_without_participants(key: "Study", found: "Results") -> str:
    from pmagic.study import results

    if not found.left_out:
        return "give the files of answers to this study"
    return f"let more people answer. {results.rule_text(key)}"


def _lines(found: "Results") -> list[str]:
    from pmagic.evaluation import published
    from pmagic.study import report, results

    lines = []
    for kind in found.kinds:
        lines += [f"{report.TITLES[kind.kind]}:", *table(report.rows(kind), report.HEADS)]
        if kind.strengths:
            titles = {each.key: each.title for each in found.study.methods}
            texts = [f"{titles[key]} {report.strength_text(each)}" for key, each in kind.strengths.items()]
            lines.append(f"Bradley-Terry strengths: {'; '.join(texts)}")
        lines += [f"agreement: {report.agreement_text(kind)}", ""]
    if any(each.paper is not None for kind in found.kinds for each in kind.compared):
        lines.append(f"the paper's: {published.PREFERENCES_SOURCE}")
    people = len(found.participants)
    return [*lines, f"{people} participant{'s' * (people != 1)} counted. {results.rule_text(found.study)}"]
