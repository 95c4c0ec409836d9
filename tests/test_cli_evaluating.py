"""`pmagic eval` through the program, on a tiny random base: the real engine and the real observers, no doubles."""

import csv
import html
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from evaluated import PROMPTS, face
from PIL import Image
from tiny import faced_folder, tiny_folders  # noqa: F401 - fixtures
from typer.testing import CliRunner, Result

from pmagic import pictures
from pmagic.cli.app import app
from pmagic.datasets import lfw
from pmagic.errors import NotFound
from pmagic.evaluation import harness, store
from pmagic.evaluation.subject_run import SubjectRun

runner = CliRunner()
SUMMARIES = ("summary.csv", "results.json", "report.html", "people.csv", "pareto.png", "heatmap.png")
Evaluate = Callable[..., Result]


@pytest.fixture
def evaluate(eval_folder: Path, people: Path, prompts_file: Path) -> Evaluate:
    """Runs `pmagic eval` on the folder of three people."""

    def run(out: Path, *more: str, count: int = 3) -> Result:
        words = [
            "--dataset",
            "folder",
            "--root",
            people,
            "--prompts",
            prompts_file,
            "--base",
            eval_folder,
            "--out",
            out,
        ]
        return runner.invoke(app, ["eval", *map(str, words), "--people", str(count), "-n", "2", *more])

    return run


def summaries(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in SUMMARIES}


def test_it_ends_in_tables_plots_and_a_report(evaluate: Evaluate, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = evaluate(out, "--recipe", "paper,reference")
    assert done.exit_code == 0, (done.stderr, done.exception)
    assert "recipe paper" in done.stdout and "the paper's: Table 6" in done.stdout
    results = json.loads((out / "results.json").read_text())
    assert len(results["pictures"]) == 2 * 3 * len(PROMPTS) * 2
    assert results["failures"] == []
    rows = list(csv.DictReader((out / "summary.csv").open()))
    means = {(row["variant"], row["metric"]): row for row in rows if row["kind"] == "mean"}
    assert means["paper", "i_pre"]["people"] == "3"
    mine = [each["t_sim"] for each in results["pictures"] if each["variant"] == "reference"]
    assert float(means["reference", "t_sim"]["value"]) == pytest.approx(sum(mine) / len(mine), abs=2e-6)
    told = [(row["variant"], row["metric"]) for row in rows if row["kind"] == "difference"]
    assert told == [("reference", column) for column in ("t_sim", "i_pre", "one_face")]
    for name in ("pareto.png", "heatmap.png"):
        assert Image.open(out / name).width > 400
    first = results["pictures"][0]
    story = pictures.read_metadata(out / first["file"])
    assert (story["prompt"], story["seed"]) == (PROMPTS[0], 0)
    about = runner.invoke(app, ["info", str(out / first["file"])])
    assert about.exit_code == 0 and "kind: picture of an evaluation" in about.stdout
    assert [path for path in out.rglob("*") if path.is_file() and path.stat().st_mode & 0o077] == []
    assert pictures.DIGITAL_SOURCE in Image.open(out / first["file"]).info["XML:com.adobe.xmp"]
    page = (out / "report.html").read_text()
    assert (
        page.count("data:image/jpeg") >= 20 and "<script" not in page and "http" not in page.replace("http-equiv", "")
    )
    # A second run finds everything done, and writes the same bytes.
    before = summaries(out)
    cells = sorted(out.rglob("cell.json"))
    shutil.rmtree(out / ".unfinished")
    assert evaluate(out, "--recipe", "paper,reference").exit_code == 0
    assert summaries(out) == before and sorted(out.rglob("cell.json")) == cells


def test_two_methods_are_two_rows_of_one_table(evaluate: Evaluate, tmp_path: Path) -> None:
    """Stopped after the first person, it goes on to the same bytes; differences are paired over people."""
    out, words = tmp_path / "out", ("--method", "personamagic,textual_inversion", "--recipe", "reference")
    done = evaluate(out, *words)
    assert done.exit_code == 0, (done.stderr, done.exception)
    assert "personamagic, recipe reference" in done.stdout and "\ntextual_inversion " in done.stdout
    results = json.loads((out / "results.json").read_text())
    assert [each.get("method") for each in results["plan"]["variants"]] == [None, "textual_inversion"]
    counts = {key: [each["variant"] for each in results["pictures"]].count(key) for key in results["stages"]}
    assert counts == {"reference": 3 * len(PROMPTS) * 2, "textual_inversion": 3 * len(PROMPTS) * 2}
    assert {tuple(each["bounds"]) for each in results["stages"]["textual_inversion"]} == {(0, 1000)}
    for each in results["differences"]:
        assert (each["variant"], each["against"], each["people"]) == ("textual_inversion", "reference", 3)
    i_pre = {key: {} for key in counts}
    for each in results["pictures"]:
        i_pre[each["variant"]].setdefault(each["person"], []).append(each["i_pre"])
    apart = [np.mean(i_pre["textual_inversion"][who]) - np.mean(i_pre["reference"][who]) for who in (1, 2, 3)]
    told = next(each["value"] for each in results["differences"] if each["column"] == "i_pre")
    assert told == pytest.approx(np.mean(apart), abs=1e-9)
    assert "textual_inversion" in (out / "report.html").read_text()
    for row in results["stages"]["textual_inversion"]:
        (persona,) = out.glob(f"people/{row['person']:04d}-*/{row['persona']}/persona/persona.toml")
        assert 'method = "textual_inversion"' in persona.read_text()
    before = summaries(out)
    for person in sorted((out / "people").iterdir())[1:]:
        shutil.rmtree(person)
    shutil.rmtree(next(iter((out / "people").iterdir())) / "variants" / "textual_inversion")
    assert evaluate(out, *words).exit_code == 0
    assert summaries(out) == before


def test_an_evaluation_is_of_the_default_method_unless_others_are_named(evaluate: Evaluate, tmp_path: Path) -> None:
    assert evaluate(tmp_path / "out", "--recipe", "reference", count=1).exit_code == 0
    named = evaluate(tmp_path / "out", "--recipe", "reference", "--method", "personamagic", count=1)
    assert named.exit_code == 0, named.stderr
    other = evaluate(tmp_path / "out", "--recipe", "reference", "--method", "textual_inversion", count=1)
    assert other.exit_code == 6 and "differs in variants" in other.stderr


def test_a_prompt_must_have_room_for_the_longest_name_of_all_methods(evaluate: Evaluate, tmp_path: Path) -> None:
    """The text encoder reads 75 tokens: here one fits where the name stands, and PersonaMagic's four do not."""
    path = tmp_path / "long.txt"
    path.write_text("snow " * 73 + "{}\n")
    words = ("--prompts", str(path), "--recipe", "reference", "--dry-run")
    one = evaluate(tmp_path / "out", *words, "--method", "textual_inversion", count=1)
    assert one.exit_code == 0, one.stderr
    both = evaluate(tmp_path / "out", *words, "--method", "textual_inversion,personamagic", count=1)
    assert both.exit_code == 2 and "beyond the 75 tokens" in both.stderr


def test_stopped_anywhere_it_goes_on_to_the_same_bytes(evaluate: Evaluate, tmp_path: Path, monkeypatch) -> None:
    """Stops the run each time a result is about to be stored: each is lost once, and made again."""
    whole = tmp_path / "whole"
    assert evaluate(whole, count=2).exit_code == 0
    out = tmp_path / "out"
    keep, stops = store.Store.keep, 0

    def stopping(self: store.Store, person: str, result: store.Result) -> None:
        if (person, result.place) not in seen:
            seen.add((person, result.place))
            raise KeyboardInterrupt
        keep(self, person, result)

    seen: set[tuple[str, str]] = set()
    monkeypatch.setattr(store.Store, "keep", stopping)
    while True:
        done = evaluate(out, count=2)
        if done.exit_code == 0:
            break
        assert done.exit_code == 130, done.stderr
        assert "run the same command to continue" in done.stderr
        stops += 1
        assert stops < 30
    assert stops == len(seen) == 2 * (1 + 1 + len(PROMPTS) + 1)  # probe, persona, cells, variant
    assert summaries(out) == summaries(whole)


def test_one_failing_person_does_not_stop_the_rest(evaluate: Evaluate, people: Path, tmp_path: Path) -> None:
    """A photo without a face and a file that is not a photo are listed, and only they are tried again."""
    out = tmp_path / "out"
    Image.new("RGB", (128, 128)).save(people / "alice.png")
    (people / "bruno.png").write_bytes(b"no picture")
    done = evaluate(out)
    assert done.exit_code == 12, (done.stdout, done.stderr)
    assert "2 of 3 people are not complete" in done.stderr
    assert "no face is found" in done.stderr and "not a JPEG" in done.stderr
    results = json.loads((out / "results.json").read_text())
    assert {each["name"] for each in results["failures"]} == {"alice", "bruno"}
    assert len({each["person"] for each in results["pictures"]}) == 1
    assert "no face is found" in html.unescape((out / "report.html").read_text())
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("cell.json")}
    face(5, 5).save(people / "alice.png")
    face(8, 6).save(people / "bruno.png")
    assert evaluate(out).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    fresh = tmp_path / "fresh"
    assert evaluate(fresh).exit_code == 0
    assert summaries(fresh) == summaries(out)


def test_faces_are_looked_for_before_any_work(evaluate: Evaluate, people: Path, tmp_path: Path) -> None:
    """Nothing starts without a face in the photo to learn from; a photo to compare with is left out and named."""
    out = tmp_path / "out"
    Image.new("RGB", (128, 128)).save(people / "alice.png")
    Image.new("RGB", (128, 128)).save(people / "chiara" / "2.png")
    done = evaluate(out, "--recipe", "reference")
    assert "no face is found in alice.png of alice" in done.stderr
    assert "warning: chiara: no face is found in 2.png" in done.stderr
    results = json.loads((out / "results.json").read_text())
    assert {results["plan"]["people"][0][each["person"] - 1] for each in results["pictures"]} == {"bruno", "chiara"}
    assert all(each["i_unseen"] is None for each in results["pictures"])
    assert len(list((out / "people").iterdir())) == 2


def test_pictures_do_not_stay_in_memory(evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seated = []
    begin = harness._make_run

    def remembering(bench: object, kept: store.Store, told: object, task: harness.Task) -> SubjectRun:
        seated.append((task, begin(bench, kept, told, task)))
        return seated[-1][1]

    monkeypatch.setattr(harness, "_make_run", remembering)
    assert evaluate(tmp_path / "out", "--recipe", "reference", count=1).exit_code == 0
    ((task, sitting),) = seated
    assert not task.kept
    names = {name for files in sitting.kept.values() for name in files}
    assert "cell.json" in names and not any(name.endswith(".png") for name in names)


def test_a_defect_fails_one_person_and_says_so(evaluate: Evaluate, tmp_path: Path, monkeypatch) -> None:
    original = SubjectRun._draw

    def broken(self: SubjectRun, *args: object) -> object:
        if self.who.name == "alice":
            raise ZeroDivisionError("by accident")
        return original(self, *args)

    monkeypatch.setattr(SubjectRun, "_draw", broken)
    done = evaluate(tmp_path / "out")
    assert done.exit_code == 12
    assert "alice: this is a defect of pmagic: ZeroDivisionError: by accident" in done.stderr


def test_another_evaluation_in_the_same_folder_is_refused(evaluate: Evaluate, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert evaluate(out, "--recipe", "reference", count=1).exit_code == 0
    done = evaluate(out, "--recipe", "reference", "--seed", "1", count=1)
    assert done.exit_code == 6
    assert "differs in" in done.stderr and "seed" in done.stderr and "--out" in done.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert evaluate(tmp_path / "mine", count=1).exit_code == 2


def test_a_dry_run_tells_and_leaves_nothing(evaluate: Evaluate, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = evaluate(out, "--dry-run", "--json", "--ablation", "table1")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["people"], told["variants"], told["learnings_left"]) == (3, 4, 12)
    assert told["pictures_left"] == 12 * len(PROMPTS) * 2
    assert told["hours"] >= 0 and told["bytes"] > 1_000_000
    assert not out.exists()
    both, one = (
        json.loads(evaluate(out, "--dry-run", "--json", "--recipe", "reference", "--method", each).stdout)
        for each in ("personamagic,textual_inversion", "personamagic")
    )
    assert (both["variants"], both["learnings_left"]) == (2, 6)
    pictures_alone = both["bytes"] - one["bytes"]  # a token takes next to nothing beside a mapper
    assert pictures_alone < 0.2 * one["bytes"]


def test_a_dry_run_passes_over_who_has_no_face(evaluate: Evaluate, people: Path, tmp_path: Path) -> None:
    """The first person of the sample: chiara, with this seed."""
    Image.new("RGB", (128, 128)).save(people / "chiara" / "1.png")
    words = ("--dry-run", "--recipe", "reference")
    done = evaluate(tmp_path / "out", *words)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("3 people x 1 variant x 2 prompts x 2 pictures")
    assert "left: 2 people, at most 2 learnings and 8 pictures; refused: 1 person" in done.stdout
    assert "warning: chiara: no face is found in 1.png" in done.stderr
    for name in ("alice", "bruno"):
        Image.new("RGB", (128, 128)).save(people / f"{name}.png")
    told = json.loads(evaluate(tmp_path / "out", *words, "--json").stdout)
    assert (told["people_left"], told["people_refused"], told["hours"]) == (0, 3, 0)


def test_a_dry_run_is_refused_where_the_run_would_be(evaluate: Evaluate, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "plan.json").write_text("{}")
    done = evaluate(out, "--dry-run")
    assert done.exit_code == 6 and "differs in" in done.stderr
    (out / "plan.json").rename(out / "letter.txt")
    assert evaluate(out, "--dry-run").exit_code == 2


def test_a_download_is_told_and_not_done_in_a_dry_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(root: None) -> None:
        raise NotFound("it was fetched")

    monkeypatch.setattr(lfw, "fetches", lambda: "LFW, about 200 MB")
    monkeypatch.setattr(lfw, "people", read)
    words = ["eval", "--dataset", "lfw", "--base", "mini", "--recipe", "reference"]
    dry = runner.invoke(app, [*words, "--dry-run"])
    assert dry.exit_code == 2 and "LFW, about 200 MB" in dry.stderr and "--root" in dry.stderr
    done = runner.invoke(app, [*words, "--quiet"])
    assert "it was fetched" in done.stderr and "warning: this downloads LFW, about 200 MB" in done.stderr
    monkeypatch.setattr(lfw, "fetches", lambda: "")
    assert "this downloads" not in runner.invoke(app, words).stderr


@pytest.mark.parametrize("ablation", ["table2", "table5"])
def test_ablations(evaluate: Evaluate, tmp_path: Path, ablation: str) -> None:
    out = tmp_path / "out"
    done = evaluate(out, "--ablation", ablation, count=1)
    assert done.exit_code == 0, (done.stdout, done.stderr)
    results = json.loads((out / "results.json").read_text())
    personas = {key: of[0]["persona"] for key, of in results["stages"].items()}
    if ablation == "table2":
        # The tiny base's probe finds hardly anything: pairs that fall back to one interval share one persona.
        fell_back = [key for key, of in results["stages"].items() if of[0]["fell_back"]]
        assert len(personas) == 6 and personas.keys() - fell_back <= {"lambda-0.5-1"}
        assert len({personas[key] for key in fell_back}) == 1
        assert done.stderr.count("1 of 1 people fell back to the stages 400:800") == len(fell_back)
        assert (out / "trend.png").is_file()
    else:
        assert list(personas) == ["weighted", "constant", "none"] and len(set(personas.values())) == 3


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ([], 2, "--dataset"),
        (["--dataset", "imagenet"], 3, "choose one of"),
        (["--dataset", "folder", "--people", "0"], 2, "--people must be"),
        (["--dataset", "folder", "--method", "loras"], 3, "choose one of: custom_diffusion, custom_personamagic"),
        (["--pictures", ".", "--method", "personamagic"], 2, "takes no --method"),
        (["--dataset", "folder", "--workers", "many"], 2, "--workers cannot be"),
        (["--dataset", "folder", "--photos", "."], 2, "--photos goes with --pictures"),
        (["--dataset", "world", "--photos", "selfies"], 2, "choose one of: portraits, snapshots"),
        (["--pictures", "."], 2, "--photos"),
        (["--pictures", ".", "--photos", "."], 2, "--prompts"),
        (["--pictures", ".", "--dataset", "folder"], 2, "--dataset"),
        (["--pictures", ".", "--people", "100", "--workers", "2"], 2, "so it takes no --people, --workers"),
    ],
)
def test_what_cannot_be_asked(words: list[str], code: int, told: str) -> None:
    done = runner.invoke(app, ["eval", *words])
    assert done.exit_code == code, done.stderr
    assert told in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--recipe", "paper,paper"], "name each recipe once"),
        (["--recipe", "best"], "no recipe 'best'"),
        (["--method", "textual_inversion", "--ablation", "table1"], "textual_inversion cannot have"),
        (["--method", "personamagic,personamagic"], "name each method once"),
        (["--ablation", "table9"], "bounds, first_stage, stages, table1, table2, table5"),
        (["--iterations", "0"], "iterations must be at least 1"),
        (["--ablation", "table1", "--recipe", "paper,reference"], "one recipe"),
        (["--people", "4"], "the data set has 3"),
    ],
)
def test_what_does_not_fit_is_told_before_any_work(evaluate: Evaluate, tmp_path: Path, words: list[str], told) -> None:
    done = evaluate(tmp_path / "out", *words)
    assert done.exit_code == 2
    assert told in done.stderr
    assert not (tmp_path / "out").exists()
