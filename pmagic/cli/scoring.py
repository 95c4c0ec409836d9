"""Scores for `pmagic eval`: of pictures that any other tool has made, and how an evaluation ends."""

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
    """Measures what is there; nothing is learned or drawn, and of the base only its observers are needed."""
    if photos is None or prompts is None:
        lacks = "--photos" if photos is None else "--prompts"
        raise UsageError(f"--pictures needs {lacks}", "pmagic eval --pictures DIR --photos DIR --prompts FILE")

    from pmagic.bases import loading
    from pmagic.bases import model_spec as specs
    from pmagic.evaluation import foreign, harness, metrics, observers, report, store
    from pmagic.evaluation import prompts as texts

    asked = texts.PAPER if prompts == "paper" else texts.read(Path(prompts))
    shown, without = foreign.found(pictures, photos, len(asked))
    for doubt in foreign.caveats(shown, without):
        console.warn(doubt)
    spec = specs.resolve(base or settings.config().base or base_options.DEFAULT)
    quiet_libraries()
    eyes = observers.observers(spec, str(loading.device_named(device)))
    sitters, failures = harness.people([each.who for each in shown])
    about = {
        "base": spec.name,
        "observers": observers.identity(spec),
        "people": [[each.who.name for each in shown]],
        "prompts": list(asked),
        "files": foreign.identity(shown),
        "metrics": metrics.columns(),
    }
    with (
        store.opened(out if out is not None else Path("eval-pictures"), about) as kept,
        stop_at_step() as check,
        console.progress("measuring") as advance,
    ):

        def told(done: int, total: int) -> None:
            advance(done, total, "")
            check()

        try:
            scores, faceless, failed = foreign.measured(eyes, shown, sitters, asked, pictures, _KEY, told)
        except KeyboardInterrupt as stop:
            raise Stopped("the measuring was stopped", "run the same command again") from stop
        finish(
            console,
            report.Report(
                about=about,
                rows=[report.Row(_KEY, pictures.resolve().name)],
                prompts=asked,
                people={who.number: who for who in sitters},
                names=[each.who.name for each in shown],
                traits={},
                scores=scores,
                stages={},
                faceless=faceless,
                failures=failures | failed,
                pictures=pictures,
            ),
            kept,
        )


def finish(console: Console, told: "Report", kept: "Store") -> None:
    """Writes the report, prints the table, and says what is not in it. Raises DoneInPart."""
    from pmagic.evaluation import report, report_files

    files = report_files.write(told, kept)
    if not told.failures or not console.as_json:
        heads, *lines = report.table(told)
        console.result([*table(lines, heads), "", *map(str, files)], report.document(told))
    for doubt in report.caveats(told):
        console.warn(doubt)
    if told.failures:
        listed = "; ".join(f"{told.names[number - 1]}: {each.what}" for number, each in sorted(told.failures.items()))
        raise DoneInPart(
            f"{len(told.failures)} of {len(told.names)} people are not complete: {listed}",
            "run the same command again: it tries only these",
            kept=f"everything else, in {kept.root}",
        )
