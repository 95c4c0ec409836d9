"""The report as one HTML page: tables, plots, contact sheets, best and worst cases."""

import base64
import io
import statistics as numbers
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from PIL import Image

from pmagic.evaluation import metrics, plots, statistics
from pmagic.evaluation.eval_config import FACE
from pmagic.evaluation.plots import Plots
from pmagic.evaluation.report import Report, caveats, cell_text, people_in, published_rows
from pmagic.pictures import MARK

SHEETS, CASES, THUMB = 4, 6, 160  # people on contact sheets, cases per kind, pixels of a thumbnail
_TEMPLATE = "report.html"


def render_page(report: Report, drawn: Plots) -> str:
    """The report as one self-contained HTML file, without scripts and without network requests."""
    import jinja2

    # Every text is escaped: names and prompts are untrusted input.
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, finalize=_printable).from_string(
        files("pmagic.evaluation").joinpath(_TEMPLATE).read_text()
    )
    titles = {row.key: row.title for row in report.rows}
    columns = metrics.table_columns()
    rows = []
    for row in report.rows:
        of = {each.column: each for each in report.means if each.variant == row.key}
        cells = [cell_text(of.get(column), people_in(of)) for column in columns]
        rows.append(
            {"title": row.title, "cells": cells, "people": people_in(of), "published": published_rows(report, row)}
        )
    return template.render(
        title=_title(report),
        base=_base(report),
        people=len(report.names),
        prompts=report.prompts,
        pictures=max((s.k for s in report.scores), default=-1) + 1,
        failures=[
            {"name": report.names[number - 1], "what": each.what} for number, each in sorted(report.failures.items())
        ],
        columns=list(columns),
        legend=list(columns.items()),
        rows=rows,
        caveats=list(caveats(report)),
        observers=report.about["observers"],
        word=FACE,
        masks=any(who.source.mask is not None for who in report.people.values()),
        confidence=f"{statistics.CONFIDENCE:.0%}",
        differences=[
            {
                "variant": titles[each.variant],
                "against": titles[each.against],
                "column": each.column,
                "value": f"{each.value:+.3f}",
                "interval": "" if each.low is None else f"{each.low:+.3f} to {each.high:+.3f}",
                "beyond_zero": each.low is not None and each.high is not None and (each.low > 0 or each.high < 0),
                "people": each.people,
            }
            for each in report.differences
        ],
        plots=[{"alt": alt, "source": _data(data, "png")} for data, alt in drawn.values()],
        stages=_stages(report, titles),
        cases=_cases(report, titles),
        sheets=_sheets(report),
    )


def _title(report: Report) -> str:
    """A title with the name of the data set, or of the folder of external pictures."""
    if "dataset" in report.about:
        return f"Evaluation on {report.about['dataset']}"
    return f"Evaluation of the pictures in {report.rows[0].title}"


def _base(report: Report) -> str:
    """The name of the base; "" without one. Of a folder only the last part is shown, as the page may be shared."""
    base = str(report.about["base"]) if "dataset" in report.about else ""
    return Path(base).name if Path(base).is_absolute() else base


def _printable(value: object) -> object:
    return plots.printable(value) if isinstance(value, str) else value


def _stages(report: Report, titles: Mapping[str, str]) -> list[dict[str, object]]:
    found = []
    for key, of in report.stages.items():
        if of:
            low, high = (round(numbers.median(each["bounds"][k] for each in of)) for k in (0, 1))
            fell = sum(bool(each.get("fell_back")) for each in of)
            found.append({"title": titles[key], "people": len(of), "low": low, "high": high, "fell_back": fell})
    return found


def _cases(report: Report, titles: Mapping[str, str]) -> list[dict[str, object]]:
    found = []
    for column in metrics.primaries():
        known = [(value, score) for score in report.scores if (value := score.values.get(column)) is not None]
        known.sort(key=lambda each: (-each[0], each[1].variant, each[1].person, each[1].prompt, each[1].k))
        for told, some in (("highest", known[:CASES]), ("lowest", known[::-1][:CASES])):
            cases = [
                {
                    "picture": _thumb_of(report.pictures / each.place),
                    "score": f"{value:.3f}",
                    "variant": titles[each.variant],
                    "person": report.names[each.person - 1],
                    "prompt": report.prompts[each.prompt - 1],
                }
                for value, each in some
            ]
            found.append({"title": f"{told} {column}", "cases": cases})
    return found


def _sheets(report: Report) -> list[dict[str, object]]:
    """The first people with pictures: their photos, then the first picture of each prompt, one line per variant."""
    found = []
    seated = sorted({score.person for score in report.scores})[:SHEETS]
    for person in seated:
        rows = []
        for row in report.rows:
            mine = [s for s in report.scores if (s.variant, s.person, s.k) == (row.key, person, 0)]
            cells = [
                {"picture": _thumb_of(report.pictures / s.place), "prompt": report.prompts[s.prompt - 1]} for s in mine
            ]
            rows.append({"title": row.title, "cells": cells})
        photos = [_thumb(photo) for photo in report.people[person].load_photos().photos]
        name = report.names[person - 1]
        found.append({"person": name, "traits": report.traits.get(person, ""), "photos": photos, "rows": rows})
    return found


def _thumb_of(path: Path) -> str:
    with Image.open(path) as picture:
        return _thumb(picture, xmp=MARK.encode())


def _thumb(picture: Image.Image, **mark: bytes) -> str:
    """A small JPEG as a data URL. mark: metadata that marks a generated picture; a photo has no mark."""
    small = picture.convert("RGB")
    small.thumbnail((THUMB, THUMB))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85, **mark)
    return _data(buffer.getvalue(), "jpeg")


def _data(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
