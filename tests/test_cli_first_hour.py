"""The first hour: samples, the demonstration, setup, progress without a terminal, and pictures to look at."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import tiny
from PIL import Image
from tiny import tiny_folders  # noqa: F401 - fixture
from typer.testing import CliRunner

from pmagic import pictures, sheet
from pmagic.bases import fetching, model_spec
from pmagic.bases.fetching import DownloadPlan
from pmagic.cli import console, demo, learn, render, setup
from pmagic.cli.app import app
from pmagic.library.store import Library
from pmagic.persona import Persona

runner = CliRunner()
SAMPLES = ["alice", "bruno", "cat", "chiara", "city", "pencil-1", "pencil-2", "pencil-3"]


def test_samples_are_pictures_that_learning_takes_and_are_never_written_over_others(tmp_path: Path) -> None:
    words = ["sample", "--out", str(tmp_path / "new" / "samples")]
    done = runner.invoke(app, words)
    assert done.exit_code == 0, done.stderr
    files = [Path(line) for line in done.stdout.splitlines()]
    assert [each.stem for each in files] == SAMPLES
    sizes = {each.stem: pictures.read_photo(each).image.size for each in files}
    assert sizes.pop("city") == (128, 64)  # a background
    assert set(sizes.values()) == {(256, 256)}
    assert runner.invoke(app, words).stdout == done.stdout  # again: the same files
    files[2].write_bytes(b"mine")
    files[0].unlink()
    refused = runner.invoke(app, words)
    assert refused.exit_code == 8 and "is not the sample of that name" in refused.stderr
    assert files[2].read_bytes() == b"mine" and not files[0].exists()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two iterations and two sampler steps instead of a thousand and fifty."""
    monkeypatch.setattr(learn, "learn", partial(learn.learn, iterations=2, stages="400:800"))
    monkeypatch.setattr(render, "render", partial(render.render, steps=2))


def test_the_demonstration_keeps_alice_in_the_persons_library(
    short: None, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = runner.invoke(app, ["demo"])
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "demo/contact-sheet.png\n"
    assert "$ pmagic learn demo/alice.png --name alice --base mini\n" in done.stderr
    assert runner.invoke(app, ["list", "-q"]).stdout == "alice@1\n"
    with Image.open("demo/contact-sheet.png") as contact_sheet:
        assert contact_sheet.width > 5 * demo.CELL and contact_sheet.height > 2 * demo.CELL
    assert len(list(Path("demo").glob("alice-*.png"))) == 8
    again = json.loads(runner.invoke(app, ["demo", "--json"]).stdout)
    assert again["persona"] == "alice@1"  # what is learned already is not learned once more


def test_the_demonstration_does_not_touch_another_alice(
    library: Library, persona: Callable[..., Persona], tmp_path: Path
) -> None:
    library.save("alice", persona())
    done = runner.invoke(app, ["demo", "--out", str(tmp_path / "demo")])
    assert done.exit_code == 2 and "another persona 'alice'" in done.stderr
    assert [str(each) for each in library.addresses()] == ["alice@1"]


def test_progress_without_a_terminal_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = iter([0.0, 4.0, 11.0, 12.0, 22.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(seconds))
    with console.Console().progress("learning alice") as advance:
        for done in (10, 50, 55, 100):
            advance(done, 200, "")
    assert capsys.readouterr().err.splitlines() == [
        "learning alice: 50 of 200, about 33 s to go", "learning alice: 100 of 200, about 22 s to go",
    ]  # fmt: skip
    monkeypatch.undo()
    monkeypatch.setattr(console, "LINE_SECONDS", 0.0)
    with console.Console(quiet=True).progress("learning alice") as advance:
        advance(1, 2, "")
    assert capsys.readouterr().err == ""


# --- setup


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names that are downloaded; a folder appears for each."""
    fetched: list[str] = []

    def orders(name: str) -> list[DownloadPlan]:
        repo = model_spec.resolve(name).repo if name in ("sd14", "sd15") else name
        return [
            DownloadPlan(
                repo=str(repo),
                revision="main",
                licence="some licence",
                files=("x",),
                size=5,
                place=model_spec.place_of(str(repo)),
            )
        ]

    def fetch(order: DownloadPlan, *, show: bool) -> Path:
        fetched.append(order.repo)
        order.place.mkdir(parents=True)
        (order.place / "model_index.json").write_text("{}")
        return order.place

    monkeypatch.setattr(fetching, "plan_downloads", orders)
    monkeypatch.setattr(fetching, "fetch", fetch)
    yield fetched


def test_a_dry_run_says_sizes_and_licences_and_downloads_nothing(hub: list[str]) -> None:
    done = runner.invoke(app, ["setup", "--for", "photos", "--dry-run"])
    assert (done.exit_code, hub) == (0, [])
    assert done.stdout == "pmagic learn alice.jpg --name alice\n"
    for word in ("sd14", "4.3 GB", "CreativeML OpenRAIL-M", "buffalo_l", "non-commercial", "to download: 5.8 GB"):
        assert word in done.stderr
    assert max(map(len, done.stderr.splitlines())) <= 110


def test_one_yes_downloads_all_that_is_missing(hub: list[str]) -> None:
    done = runner.invoke(app, ["setup", "--base", "sd15", "--yes", "--json"])
    assert done.exit_code == 0, done.stderr
    assert hub == [
        "stable-diffusion-v1-5/stable-diffusion-v1-5", model_spec.CLIP_REPO, model_spec.CLIPSEG_REPO, "buffalo_l",
    ]  # fmt: skip
    document = json.loads(done.stdout)
    assert document["next"] == "pmagic learn alice.jpg --name alice --base sd15"
    again = json.loads(runner.invoke(app, ["setup", "--base", "sd15", "--yes", "--json"]).stdout)
    assert all(each["here"] for each in again["items"]) and len(hub) == 4


def test_for_commercial_use_the_face_pack_is_left_out(hub: list[str]) -> None:
    done = runner.invoke(app, ["setup", "--for", "photos", "--commercial", "--yes"])
    assert done.stdout == "pmagic learn alice.jpg --name alice --recipe reference\n"
    assert "buffalo_l" not in hub and len(hub) == 3


def test_for_drawings_nothing_is_downloaded(hub: list[str]) -> None:
    done = runner.invoke(app, ["setup", "--for", "drawings"])
    assert (done.exit_code, hub) == (0, [])
    assert done.stdout == "pmagic sample && pmagic learn alice.png --name alice --base mini\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "there is no keyboard to ask"),
        (["--for", "holidays"], 2, "choose one of: photos, drawings"),
        (["--for", "photos"], 2, "pmagic downloads only with your consent"),
        (["--base", "sd41"], 3, "there is no base 'sd41'"),
    ],
)
def test_setup_refuses(hub: list[str], words: list[str], code: int, said: str) -> None:
    done = runner.invoke(app, ["setup", *words])
    assert done.exit_code == code and said in done.stderr
    assert hub == []


@pytest.mark.parametrize(
    ("answers", "printed", "count"),
    [
        ("1\ny\n", "pmagic learn alice.jpg --name alice\n", 4),
        ("\nn\n", "", 0),
        ("2\n", "pmagic sample && pmagic learn alice.png --name alice --base mini\n", 0),
    ],
)
def test_somebody_at_the_keyboard_is_asked(
    hub: list[str], monkeypatch: pytest.MonkeyPatch, answers: str, printed: str, count: int
) -> None:
    monkeypatch.setattr(setup, "_at_keyboard", lambda: True)
    done = runner.invoke(app, ["setup"], input=answers)
    assert (done.exit_code, len(hub)) == (0, count), done.stderr
    assert done.stdout.endswith(printed) and ("pmagic learn" in done.stdout) is bool(printed)
    assert "1  photos: people, animals and things in photographs" in done.stderr


def test_a_full_disk_is_seen_before_the_download(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "_disk_free", lambda: 3 * 10**9)
    done = runner.invoke(app, ["setup", "--for", "photos", "--yes"])
    assert done.exit_code == 8 and "takes 5.8 GB" in done.stderr and "3.0 GB free" in done.stderr
    assert hub == []


# --- pictures to look at


def test_enlarged_copies_lie_beside_their_pictures_and_lead_back_to_them(
    tiny_folders: dict[str, Path],  # noqa: F811
    library: Library,
    tmp_path: Path,
) -> None:
    tiny.photo(3).save(tmp_path / "alice.png")
    base = str(tiny_folders["sd1"])
    words = ["--name", "alice", "--base", base, "--iterations", "2", "--recipe", "reference"]
    assert runner.invoke(app, ["learn", str(tmp_path / "alice.png"), *words]).exit_code == 0
    plain = ["render", "alice", "in snow", "--steps", "1", "--out", str(tmp_path)]
    first = Path(runner.invoke(app, plain).stdout.strip())
    document = json.loads(runner.invoke(app, [*plain, "--enlarge", "4", "--json"]).stdout)
    own, (copy,) = Path(document["pictures"][0]["file"]), map(Path, document["enlarged"])
    assert own.read_bytes() == first.read_bytes()  # the picture itself stays as it was
    with Image.open(own) as small, Image.open(copy) as large:
        assert large.size == (4 * small.width, 4 * small.height)
        assert large.tobytes() == small.resize(large.size, Image.Resampling.LANCZOS).tobytes()
    about = runner.invoke(app, ["info", str(copy), "--json"])
    command = json.loads(about.stdout)["command"]
    assert "enlarged 4 times" in about.stderr
    assert command == json.loads(runner.invoke(app, ["info", str(first), "--json"]).stdout)["command"]
    refused = runner.invoke(app, [*plain, "--enlarge", "99"])
    assert refused.exit_code == 2 and "--enlarge must be 1 to 16" in refused.stderr


def test_a_sheet_names_its_rows_and_columns() -> None:
    red, blue = (Image.new("RGB", (64, 64), colour) for colour in ((200, 0, 0), (0, 0, 200)))
    made = sheet.compose_sheet([("as a cowboy", [red, blue]), ("in snow", [blue, red])], heads=["seed 0", "seed 1"])
    assert made.size == (2 * (sheet.CELL + sheet.GAP) + 2 * sheet.GAP, 3 * sheet.LINE + 2 * sheet.CELL + 3 * sheet.GAP)
    centre = sheet.CELL // 2
    left, right = sheet.GAP + centre, sheet.GAP + sheet.CELL + sheet.GAP + centre
    above = 2 * sheet.LINE + centre
    below = above + sheet.LINE + sheet.CELL + sheet.GAP
    colours = [made.getpixel(at) for at in ((left, above), (right, above), (left, below), (right, below))]
    assert colours == [(200, 0, 0), (0, 0, 200), (0, 0, 200), (200, 0, 0)]
    lines = [made.crop((0, top, made.width, top + sheet.LINE)) for top in (0, sheet.LINE)]
    assert all(len(each.getcolors(10_000)) > 2 for each in lines)  # letters, not paper alone
    long = sheet.compose_sheet([("as a cowboy " * 60, [red])])
    assert long.width <= sheet.MAX_CAPTION + 2 * sheet.GAP


def test_the_list_of_models_fits_a_terminal() -> None:
    lines = runner.invoke(app, ["models", "list"]).stdout.splitlines()
    assert len(lines) == 18 and max(map(len, lines)) <= 80
