"""The results of a study for people: the table, the plot, and one HTML page with both, which loads nothing."""

import base64
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from pmagic import atomic_io
from pmagic.engine.figures import INK, figure, png
from pmagic.evaluation import published
from pmagic.evaluation.plots import FAINT, OTHER, printable
from pmagic.study import preference
from pmagic.study.preference import Strength
from pmagic.study.questions import IDENTITY, TEXT
from pmagic.study.results import Compared, Kind, Results, caveats, document, rule_text

FILES = ("results.json", "preference.png", "report.html")
TITLES = {IDENTITY: "Which picture is the person", TEXT: "Which picture fits the prompt"}


def write(found: Results, folder: Path) -> list[Path]:
    """Write results.json, the plot and the page into the folder of the study, in place of older ones.

    Returns their paths. Raises StorageFailed.
    """
    drawn = plot(found.kinds)
    contents = (
        (json.dumps(document(found), indent=1) + "\n").encode(),
        drawn,
        render(found, drawn).encode(errors="backslashreplace"),
    )
    paths = [folder / name for name in FILES]
    for path, data in zip(paths, contents, strict=True):
        with atomic_io.storing(str(path)):
            atomic_io.replace_file(path, data)
    return paths


def rows(kind: Kind) -> list[list[str]]:
    """One line for each pair of methods: the methods, the share, both intervals, the counts, and the paper's share."""
    return [
        [
            each.first.title,
            each.second.title,
            f"{each.share.value:.1%}",
            interval_text(each),
            "{:.1%} to {:.1%}".format(*each.share.wilson),
            str(each.share.answers),
            str(each.share.participants),
            str(each.share.questions),
            "" if each.paper is None else "{:.1%} ± {:.1%}".format(*each.paper),
        ]
        for each in kind.compared
    ]


HEADS = (
    "preferred",
    "over",
    "share",
    "over people and questions",
    "Wilson",
    "answers",
    "people",
    "questions",
    "the paper's",
)


def interval_text(each: Compared) -> str:
    return "-" if each.share.low is None else f"{each.share.low:.1%} to {each.share.high:.1%}"


def strength_text(each: Strength) -> str:
    interval = "" if each.low is None else f" ({each.low:+.2f} to {each.high:+.2f})"
    return f"{each.value:+.2f}{interval}"


def agreement_text(kind: Kind) -> str:
    if kind.same is None:
        return "no question has two answers, so there is no agreement to state"
    alpha = "" if kind.alpha is None else f", Krippendorff's alpha {kind.alpha:.2f}"
    return f"two participants agree in {kind.same:.0%} of the answers to one question{alpha}"


def plot(kinds: Sequence[Kind]) -> bytes:
    """The shares with their intervals as PNG, one panel for each kind; squares are the paper's."""
    lines = max((len(each.compared) for each in kinds), default=1)
    drawing = figure(4.0 + 3.6 * max(len(kinds), 1), 1.5 + 0.5 * lines)
    all_axes = drawing.subplots(1, max(len(kinds), 1), sharey=True, squeeze=False)[0]
    for axes, kind in zip(all_axes, kinds, strict=False):
        axes.axvline(50, color=FAINT, lw=1, ls="--")
        for place, each in enumerate(kind.compared):
            wilson_low, wilson_high = (100 * value for value in each.share.wilson)
            axes.plot([wilson_low, wilson_high], [place, place], color=INK, lw=4, alpha=0.3, solid_capstyle="butt")
            if each.share.low is not None and each.share.high is not None:
                axes.plot([100 * each.share.low, 100 * each.share.high], [place, place], "|-", color=INK, lw=1.2, ms=8)
            axes.plot(100 * each.share.value, place, "o", color=INK, ms=6)
            if each.paper is not None:
                axes.plot(100 * each.paper[0], place, "s", color=OTHER, mfc="none", ms=7)
        axes.set(xlim=(-2, 102), xlabel="share of answers, %", ylim=(lines - 0.5, -0.5))
        axes.set_title(TITLES[kind.kind], fontsize=10)
        texts = [f"{printable(each.first.title)}\nover {printable(each.second.title)}" for each in kind.compared]
        axes.set_yticks(range(len(texts)), texts, fontsize=8)
        for label in axes.get_yticklabels():
            label.set_parse_math(False)
    paper = any(each.paper is not None for kind in kinds for each in kind.compared)
    drawing.supxlabel(
        f"thin: {preference.CONFIDENCE:.0%} over participants and questions; thick: Wilson"
        + "; squares: the paper's, of other people" * paper,
        fontsize=8,
    )
    return png(drawing)


def render(found: Results, drawn: bytes) -> str:
    """The page as one HTML file without scripts. Every text is escaped."""
    import jinja2

    def show(value: object) -> object:
        return printable(value) if isinstance(value, str) else value

    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, finalize=show).from_string(
        files("pmagic.study").joinpath("report.html").read_text()
    )
    paper = any(each.paper is not None for kind in found.kinds for each in kind.compared)
    return template.render(
        about=found.study.about,
        methods=found.study.methods,
        questions=len(found.study.questions) - len(found.study.checks),
        heads=HEADS if paper else HEADS[:-1],
        kinds=[
            {
                "title": TITLES[kind.kind],
                "rows": [line if paper else line[:-1] for line in rows(kind)],
                "agreement": agreement_text(kind),
                "strengths": [
                    (each.title, strength_text(kind.strengths[each.key]))
                    for each in found.study.methods
                    if kind.strengths
                ],
            }
            for kind in found.kinds
        ],
        plot=f"data:image/png;base64,{base64.b64encode(drawn).decode()}",
        participants=[(each.id, each.machine, len(each.answers)) for each in found.participants],
        left_out=list(found.left_out.items()),
        rule=rule_text(found.study),
        caveats=caveats(found),
        problems=found.problems,
        checks=[(question, right, of) for question, (right, of) in found.checks.items()],
        paper=published.PREFERENCES_SOURCE if paper else "",
        confidence=f"{preference.CONFIDENCE:.0%}",
        prior=preference.PRIOR,
    )
