"""Scores for `pmagic eval`: for pictures of another tool; and the last step of every evaluation."""

from pathlib import Path
from typing import TYPE_CHECKING

from pmagic import settings
from pmagic.cli.console import Console, table
from pmagic.cli.stopping import Stopped, stop_at_step
from pmagic.errors import DoneInPart, UsageError
from pmagic.tasks import base_options
from pmagic.tasks.base_options import quiet_libraries

if TYPE_CHECKING:
    from pmagic.evaluation.report import Report
    from pmagic.evaluation.store import Store

_KEY = "pictures"


def score(
    console: Console,
    pictures: Path,
    photos: Path | None,
    prompts: str | None,
    base: str | None,
    device: str,
    out: Path | None,
) -> None:
    """Scores existing pictures. Nothing is learned or drawn, so only the base's vision models are needed."""
    if photos is None or prompts is None:
        lacks = "--photos" if photos is None else "--prompts"
        raise UsageError(f"--pictures needs {lacks}", "pmagic eval --pictures DIR --photos DIR --prompts FILE")

    from pmagic.bases import loading
    from pmagic.bases import model_spec as specs
    from pmagic.evaluation import external_images, harness, metrics, observers, report, store
    from pmagic.evaluation import prompts as prompt_lists

    texts = prompt_lists.PAPER if prompts == "paper" else prompt_lists.read(Path(prompts))
    groups, without = external_images.find_images(pictures, photos, len(texts))
    for caveat in external_images.caveats(groups, without):
        console.warn(caveat)
    spec = specs.resolve(base or settings.config().base or base_options.DEFAULT)
    quiet_libraries()
    vision_models = observers.observers(spec, str(loading.find_device(device)))
    subjects, failures = harness.people([each.who for each in groups])
    about = {
        "base": spec.name,
        "observers": observers.identity(spec),
        "people": [[each.who.name for each in groups]],
        "prompts": list(texts),
        "files": external_images.identity(groups),
        "metrics": metrics.columns(),
    }
    with (
        store.open_store(out if out is not None else Path("eval-pictures"), about) as results,
        stop_at_step() as check,
        console.progress("scoring") as advance,
    ):

        def report_progress(done: int, total: int) -> None:
            advance(done, total, "")
            check()

        try:
            scores, faceless, failed = external_images.measure(
                vision_models, groups, subjects, texts, pictures, _KEY, report_progress
            )
        except KeyboardInterrupt as stop:
            raise Stopped("the scoring was stopped", "run the same command again") from stop
        finish(
            console,
            report.Report(
                about=about,
                rows=[report.Row(_KEY, pictures.resolve().name)],
                prompts=texts,
                people={who.number: who for who in subjects},
                names=[each.who.name for each in groups],
                traits={},
                scores=scores,
                stages={},
                faceless=faceless,
                failures=failures | failed,
                pictures=pictures,
            ),
            results,
        )


def finish(console: Console, outcome: "Report", results: "Store") -> None:
    """Writes the report, prints its table and its caveats. Raises DoneInPart if people are missing."""
    from pmagic.evaluation import report, report_files

    files = report_files.write(outcome, results)
    if not outcome.failures or not console.as_json:
        heads, *lines = report.table(outcome)
        console.result([*table(lines, heads), "", *map(str, files)], report.document(outcome))
    for caveat in report.caveats(outcome):
        console.warn(caveat)
    if outcome.failures:
        listed = "; ".join(
            f"{outcome.names[number - 1]}: {each.what}" for number, each in sorted(outcome.failures.items())
        )
        raise DoneInPart(
            f"{len(outcome.failures)} of {len(outcome.names)} people are not complete: {listed}",
            "run the same command again: it tries only these",
            kept=f"everything else, in {results.root}",
        )
