"""The report on made scores: what it says, and that no name or prompt is ever more than text."""

import base64
import csv
import html.parser
import io
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import browser
import pytest
from PIL import Image

from pmagic import pictures
from pmagic.datasets import Individual
from pmagic.evaluation import metrics, plots, report, report_files, scores
from pmagic.evaluation.eval_config import EvalSubject
from pmagic.evaluation.harness import Failure
from pmagic.evaluation.report import Report, Row
from pmagic.evaluation.statistics import Difference, Mean
from pmagic.evaluation.store import Store
from pmagic.pictures import Photo

HOSTILE = "<script>alert(1)</script>{{ 7*7 }} $\\frac{1$ \u202e \x1b[31m '\"&"
PROMPTS = ["{} as a cowboy", f"{{}} {HOSTILE}", "{} " + "w" * 200, "a very long prompt of {} " + "with words " * 20]


def subject(number: int, name: str) -> EvalSubject:
    photo = Photo(Image.new("RGB", (80, 60), (40 * number, 90, 120)), f"{number:064x}", Path("photo"))
    return EvalSubject(
        number=number,
        name=name,
        source=Individual(name=name, learned=(lambda: photo,)),
        hashes=(photo.sha256,),
        files=("photo",),
        learned=1,
    )


@pytest.fixture
def made(tmp_path: Path) -> tuple[Report, Store]:
    """Three people, one without pictures; two variants of Table 2; four prompts, two of them hostile."""
    store = Store(tmp_path / "out")
    names = ["alice", HOSTILE, "chiara"]
    people = {number: subject(number, name) for number, name in enumerate(names, 1)}
    lines = []
    for row, variant in enumerate(("lambda-0.5-1", "lambda-0.7-0.8")):
        for person in (1, 2):
            for prompt in range(len(PROMPTS)):
                files = [f"people/{variant}-{person}-{prompt}-{k}.png" for k in range(2)]
                for k, file in enumerate(files):
                    path = store.root / file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    shade = (60 * prompt, 100 * row + 50, 90 * k + 40 * person)
                    path.write_bytes(pictures.encode_image(Image.new("RGB", (64, 64), shade), "png", {}))
                values = {name: [0.1 * prompt + 0.05 * row + 0.01 * person] * 2 for name in metrics.columns()}
                lines += scores.rows((variant, person, prompt + 1), [0, 1], files, values)
    made = Report(
        about={
            "dataset": "world", "base": "mini", "people": [names], "observers": {"clip": "c" * 16, "judge": "j" * 16},
            "variants": [],
        },
        rows=[
            Row("lambda-0.5-1", "λ1 = 0.5, λ2 = 1", 2, "0.5, 1.0"),
            Row("lambda-0.7-0.8", "λ1 = 0.7, λ2 = 0.8", 2, "0.7, 0.8"),
        ],
        prompts=PROMPTS,
        people=people,
        names=names,
        traits={1: HOSTILE},
        scores=lines,
        stages={"lambda-0.5-1": [{"person": 1, "bounds": [400, 800], "fell_back": HOSTILE}], "lambda-0.7-0.8": []},
        faceless={1: ("2.png",)},
        failures={3: Failure(f"no face is found in {HOSTILE}", HOSTILE)},
        pictures=store.root,
    )  # fmt: skip
    return made, store


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text as it would be shown."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_names_and_prompts_are_text(made: tuple[Report, Store]) -> None:
    told, store = made
    report_files.write(told, store)
    page = Page((store.root / "report.html").read_text())
    assert "<script>alert(1)</script>{{ 7*7 }}" in page.text
    assert "\u202e" not in page.text and "\x1b" not in page.text
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "iframe", "object", "link", "a", "form"})
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        if tag == "img":
            assert re.fullmatch(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+", attributes["src"])
    (policy,) = [a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    assert policy.startswith("default-src 'none'")


def test_it_holds_tables_cases_and_sheets(made: tuple[Report, Store]) -> None:
    told, store = made
    files = report_files.write(told, store)
    assert {each.name for each in files} == {
        "people.csv", "results.json", "summary.csv", "pareto.png", "heatmap.png", "trend.png", "report.html",
    }  # fmt: skip
    text = Page((store.root / "report.html").read_text()).text
    assert "the paper's: Table 2, 0.5, 1.0, celeba-hq, Stable Diffusion 1.4" in text
    assert "another base or other people than here" in text
    assert "+0.050" in text and "+0.050 to +0.050" in text  # the same for everyone, so the interval has no width
    for part in ("Not complete", "highest t_sim", "lowest i_pre", "Contact sheets", "Stages"):
        assert part in text
    results = json.loads((store.root / "results.json").read_text())
    assert len(results["pictures"]) == 2 * 2 * 4 * 2 and results["failures"][0]["person"] == 3
    rows = list(csv.reader(io.StringIO((store.root / "people.csv").read_text())))
    assert [row[1] for row in rows[1:]] == told.names


def test_what_was_drawn_says_that_a_machine_made_it_and_a_photo_does_not(made: tuple[Report, Store]) -> None:
    told, store = made
    report_files.write(told, store)
    page = (store.root / "report.html").read_text()
    shown = {base64.b64decode(data) for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", page)}
    unmarked = [data for data in shown if pictures.DIGITAL_SOURCE.encode() not in data]
    assert len(shown) > len(unmarked) == 2  # the two people's photos


def test_the_same_scores_give_the_same_bytes(made: tuple[Report, Store]) -> None:
    told, store = made
    first = {path.name: path.read_bytes() for path in report_files.write(told, store)}
    assert {path.name: path.read_bytes() for path in report_files.write(told, store)} == first


def test_stages_that_fell_back_and_photos_without_a_face_are_told(made: tuple[Report, Store]) -> None:
    first, second = report.caveats(made[0])
    assert first == "λ1 = 0.5, λ2 = 1: 1 of 1 people fell back to the stages 400:800"
    assert "alice" in second and "2.png" in second


def test_rows_that_tell_of_the_same_pictures_say_so(made: tuple[Report, Store]) -> None:
    told = made[0]
    first, second = ([{"person": who, "bounds": [0, 1000], "drawing": each} for who, each in enumerate(of, 1)]
                     for of in (("a", "b", "c"), ("a", "x", "c")))  # fmt: skip
    stages = dict(zip(told.keys, (first, second), strict=True))
    (shared,) = report.caveats(replace(told, stages=stages, faceless={}))
    assert shared.startswith("λ1 = 0.7, λ2 = 0.8: for 2 of 3 people it came to the same as λ1 = 0.5, λ2 = 1")
    unlike = [{**each, "drawing": "y"} for each in second]
    assert not list(report.caveats(replace(told, stages={**stages, told.keys[1]: unlike}, faceless={})))


def test_only_a_difference_clear_of_zero_is_bold(made: tuple[Report, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    told, store = made
    one, other = told.keys
    some = [
        Difference(variant=other, against=one, column="t_sim", value=0.25, low=0.125, high=0.375, people=2),
        Difference(variant=other, against=one, column="i_pre", value=0.5, low=-0.125, high=0.75, people=2),
    ]
    monkeypatch.setitem(vars(told), "differences", some)
    report_files.write(told, store)
    page = (store.root / "report.html").read_text()
    assert "<b>+0.250</b>" in page and "+0.500" in page and "<b>+0.500</b>" not in page


def test_the_papers_squares_are_of_the_same_base(made: tuple[Report, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    squares = []
    monkeypatch.setattr(plots, "pareto", lambda points, published: squares.append(published) or b"")
    for base in ("mini", "sd14"):
        report_files._plots(replace(made[0], about={**made[0].about, "base": base}))
    assert [len(each) for each in squares] == [0, 2]


def test_numbers_of_points_do_not_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six points in one place, as where every stage fell back."""
    drawn = []
    monkeypatch.setattr(plots, "png", lambda drawing: drawn.append(drawing) or b"")
    mean = Mean(variant="v", column="i_pre", value=0.1, error=0.05, people=3, pictures=12)
    titles = [f"λ1 = 0.{number}, λ2 = 1" for number in range(6)]
    plots.pareto({title: (mean, mean) for title in titles}, {})
    (drawing,) = drawn
    drawing.canvas.draw()
    boxes = [text.get_window_extent() for text in drawing.axes[0].texts]
    assert len(boxes) == 6 and not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    legend = drawing.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [f"{k}  {title}" for k, title in enumerate(titles, 1)]
    assert drawing.bbox.x1 >= legend.get_window_extent().x1


def test_nobody_at_all_is_a_report_too(made: tuple[Report, Store]) -> None:
    told, store = made
    empty = replace(told, scores=[], stages={row.key: [] for row in told.rows})
    assert {path.name for path in report_files.write(empty, store)} == {
        "people.csv", "results.json", "summary.csv", "report.html",
    }  # fmt: skip
    assert report.table(empty)[1][1] == "-"


def test_a_dollar_in_a_name_begins_no_formula() -> None:
    mean = Mean(variant="v", column="i_pre", value=0.1, error=0.05, people=3, pictures=12)
    assert plots.pareto({"$\\frac{1$ \x1b": (mean, mean)}, {"$\\frac{1$ \x1b": (0.3, 0.7)})[:4] == b"\x89PNG"
    assert plots.heat_map(["$\\bad{ {}", "ok"], ["$a"], {"t_sim": [[0.5], [None]]})[:4] == b"\x89PNG"
    assert plots.trend(["$a", "b"], {"t_sim": [mean, mean]})[:4] == b"\x89PNG"


@pytest.mark.slow
@browser.needed
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_without_overflow(made: tuple[Report, Store], width: int, tmp_path: Path) -> None:
    """In a frame as wide as a desktop or a phone nothing sticks out, and every picture loads."""
    told, store = made
    report_files.write(told, store)
    page = (store.root / "report.html").read_text()
    probe = (
        "<script>addEventListener('load',()=>{const d=document.documentElement;"
        "const bad=[...document.images].filter(i=>!i.complete||!i.naturalWidth).length;"
        "document.title=`wide ${d.scrollWidth} of ${d.clientWidth}, broken ${bad} of ${document.images.length}`})"
        "</script>"
    )
    # The test adds a script to ask the browser; the page itself forbids any.
    open_page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', probe, page)
    (tmp_path / "page.html").write_text(open_page)
    frame = f'<iframe src="page.html" width="{width}" height="900" style="border:0"></iframe>'
    told_by = "<script>onload=()=>document.title=document.querySelector('iframe').contentDocument.title</script>"
    (tmp_path / "frame.html").write_text(f"<body style='margin:0'>{frame}{told_by}")
    found = browser.shown(tmp_path / "frame.html", "--allow-file-access-from-files")
    wide, room, broken, images = map(int, re.search(r"wide (\d+) of (\d+), broken (\d+) of (\d+)", found).groups())
    assert wide <= room and width - 20 < room <= width  # a scroll bar takes some
    assert broken == 0 and images > 20
