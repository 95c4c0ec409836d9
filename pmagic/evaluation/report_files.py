"""The report's files: people.csv, results.json, summary.csv, two or three plots, and report.html with all in one file.

They depend only on the store's contents, so an interrupted and resumed evaluation gives the same bytes; only costs.csv,
which holds durations, differs.
"""

import csv
import io
from pathlib import Path

from pmagic.evaluation import costs, metrics, page, plots, statistics
from pmagic.evaluation.plots import Plots
from pmagic.evaluation.report import Report, document, published_rows
from pmagic.evaluation.store import Store, as_json


def write(report: Report, store: Store) -> list[Path]:
    """Write all files into the store's folder, and return their paths. Raises StorageFailed."""
    drawn = _plots(report)
    return [
        store.write("people.csv", _people(report)),
        store.write("results.json", as_json(document(report))),
        store.write("summary.csv", statistics.as_csv(report.means, report.differences)),
        *(store.write(f"{name}.png", data) for name, (data, _) in drawn.items()),
        store.write("report.html", page.render_page(report, drawn).encode()),
        *([store.write("costs.csv", costs.as_csv(report.costs))] if report.costs else []),
    ]


def _people(report: Report) -> bytes:
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["person", "name", "photos_learned_from", "sha256_of_photos"])
    for number, name in enumerate(report.names, 1):
        who = report.people.get(number)
        lines.writerow([number, name, who.learned if who else 0, " ".join(who.hashes) if who else ""])
    return text.getvalue().encode()


def _plots(report: Report) -> Plots:
    primaries = metrics.primaries()
    of = {(each.variant, each.column): each for each in report.means}
    shown = [row for row in report.rows if all((row.key, column) in of for column in ("t_sim", "i_pre"))]
    if not shown:
        return {}
    theirs = {row.title: published_rows(report, row) for row in shown}
    squares = {  # only of this base: others are not comparable and would squeeze our points into a corner
        title: (float(each["scores"]["i_pre"]), float(each["scores"]["t_sim"]))
        for title, each in theirs.items()
        if each and each["base"] == report.about["base"]
    }
    points = {row.title: (of[row.key, "i_pre"], of[row.key, "t_sim"]) for row in shown}
    by_prompt = {
        column: list(
            zip(
                *(statistics.by_prompt(report.scores, row.key, column, len(report.prompts)) for row in shown),
                strict=True,
            )
        )
        for column in primaries
    }
    titles = [row.title for row in shown]
    drawn = {
        "pareto": (plots.pareto(points, squares), "T-Sim over I-Pre of each variant, with the Pareto front"),
        "heatmap": (plots.heat_map(report.prompts, titles, by_prompt), "the mean of each prompt and variant"),
    }
    if any(row.table == 2 for row in shown):
        lines = {column: [of[row.key, column] for row in shown] for column in primaries}
        drawn["trend"] = (plots.trend(titles, lines), "the scores over the thresholds")
    return drawn
