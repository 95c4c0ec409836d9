"""`pmagic study` from an evaluation to the results, as a person types it."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import studied
from studied import document, prefer
from typer.testing import CliRunner

from pmagic.cli.app import app
from pmagic.study import folder, server

runner = CliRunner()
SAYS_TORCH = """
import atexit, sys
atexit.register(lambda: print("torch" in sys.modules))
from pmagic.cli.app import main
main()
"""


def run(*words: object) -> Any:
    return runner.invoke(app, ["study", *map(str, words)])


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A study made by the command."""
    evaluation, photos = studied.build(tmp_path)
    out = tmp_path / "study"
    done = run("make", evaluation, "--root", photos, "--questions", "18", "--checks", "6", "--out", out, "--json")
    assert done.exit_code == 0, done.stderr
    return out, json.loads(done.stdout)


def test_make_says_where_page_and_key_are(made: tuple[Path, dict[str, Any]]) -> None:
    out, told = made
    assert told["page"] == str(out / "page" / "index.html") and told["key"] == str(out / "study.json")
    assert (told["questions"], told["checks"], told["people"]) == (18, 6, 4) and told["warnings"] == []
    assert sorted(each.name for each in out.rglob("*") if each.is_file()) == ["index.html", "study.json"]
    assert len(folder.read(out).questions) == 24


def test_make_refuses_what_cannot_be_a_study(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    evaluation, photos = tmp_path / "evaluation", tmp_path / "photos"
    for words, code, said in (
        ([evaluation, "--root", photos, "--out", made[0]], 2, "is there already and not empty"),
        ([evaluation, "--root", photos, "--questions", "0"], 2, "--questions must be 1 to 1000, not 0"),
        ([evaluation, "--root", photos, "--checks", "1001"], 2, "--checks must be 0 to 1000, not 1001"),
        ([evaluation, "--root", photos, "--methods", "neti,lora"], 3, "no method 'neti'"),
        ([evaluation], 2, "--root"),
        ([tmp_path / "photos"], 3, "holds no evaluation"),
        ([evaluation, "--root", photos, "--questions", "999"], 2, "give --questions 144"),
    ):
        done = run("make", *words, *([] if "--out" in words else ["--out", tmp_path / "x"]))
        assert done.exit_code == code and said in done.stderr, (words, done.stderr)
    assert not (tmp_path / "x").exists()


def test_a_short_study_needs_no_more_options_and_counts_whom_it_shows(tmp_path: Path) -> None:
    evaluation, photos = studied.build(tmp_path)
    done = run("make", evaluation, "--root", photos, "--questions", "2", "--out", tmp_path / "study", "--json")
    assert done.exit_code == 0 and len(folder.read(tmp_path / "study").questions) == 10
    done = run("make", evaluation, "--root", photos, "--questions", "1", "--checks", "0", "--out", tmp_path / "one",
               "--json")  # fmt: skip
    assert done.exit_code == 0 and json.loads(done.stdout)["people"] == 1


def test_people_without_pictures_are_told(tmp_path: Path) -> None:
    import shutil

    evaluation, photos = studied.build(tmp_path)
    shutil.rmtree(next(evaluation.glob("people/0002-*")))
    done = run("make", evaluation, "--root", photos, "--out", tmp_path / "study", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["people"] == 3
    assert json.loads(done.stdout)["warnings"] == ["the evaluation has no pictures yet of bruno: left out"]


def test_score_prints_the_preferences_beside_the_paper_s(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, _ = made
    study = folder.read(out)
    files = []
    for number in range(6):
        files.append(tmp_path / f"{number}.json")
        wrong = "lora" if number < 4 else "paper"
        files[-1].write_text(json.dumps(document(study, f"p{number}", prefer(wrong))))
    careless = tmp_path / "careless.json"
    careless.write_text(json.dumps(document(study, "careless", lambda each: "a")))
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    done = run("score", out, *files, careless, broken)
    assert done.exit_code == 0, done.stderr
    assert f"{broken} is left out: it is no JSON" in done.stderr
    assert "warning: careless is left out: " in done.stderr and "attention checks are wrong" in done.stderr
    text = done.stdout
    (against,) = [line for line in text.splitlines() if line.startswith("paper ") and " lora" in line][:1]
    assert against.split()[-3:] == ["18", "6", "3"]
    assert text.count("70.0% ± 2.0%") == 1 and text.count("73.5% ± 1.4%") == 1
    assert "the paper's: Table 4, 50 participants, other people" in text
    assert "6 participants counted. Participants are left out if they answered fewer than 3 of the 6" in text
    assert text.splitlines()[-2 if text.splitlines()[-1].startswith("6 ") else -1] == str(out / "report.html")
    again = run("score", out, *files, "--json")
    told = json.loads(again.stdout)
    assert {each["over"]: each["value"] for each in told["preferences"] if each["kind"] == "text"}.keys() == {
        "lora", "textual_inversion",
    }  # fmt: skip
    assert told["files"] == [str(out / name) for name in ("results.json", "preference.png", "report.html")]
    lora = [each for each in told["preferences"] if (each["method"], each["over"]) == ("lora", "textual_inversion")]
    assert [each["answers"] for each in lora] == [18, 18] and all(each["value"] >= 2 / 3 for each in lora)
    assert json.loads((out / "results.json").read_text())["study"] == study.id


def test_score_takes_what_the_server_has_kept(made: tuple[Path, dict[str, Any]]) -> None:
    out, _ = made
    study = folder.read(out)
    (out / folder.ANSWERS).mkdir()
    for who in ("p1", "p2"):
        lines = [
            {"study": study.id, "participant": who, **each} for each in document(study, who, prefer("lora"))["choices"]
        ]
        (out / folder.ANSWERS / f"{who}.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in lines))
    told = json.loads(run("score", out, "--json").stdout)
    assert [each["id"] for each in told["participants"]] == ["p1", "p2"] and told["agreement"]["text"]["same"] == 1.0


def test_score_without_an_answer_that_counts(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, _ = made
    done = run("score", out)
    assert done.exit_code == 3 and "there are no answers in" in done.stderr
    careless = tmp_path / "careless.json"
    careless.write_text(json.dumps(document(folder.read(out), "careless", lambda each: "a")))
    done = run("score", out, careless)
    assert done.exit_code == 3 and "no participant is left to count, of 1 file" in done.stderr
    assert "next: let more people answer. Participants are left out if" in done.stderr
    done = run("score", out, tmp_path / "none.json")
    assert done.exit_code == 3 and "next: give the files of answers to this study" in done.stderr
    assert not (out / "report.html").exists()


def test_serve_refuses_what_cannot_be_served(tmp_path: Path) -> None:
    assert "--port must be 0 to 65535" in run("serve", tmp_path, "--port", "70000").stderr
    done = run("serve", tmp_path, "--host", "")
    assert done.exit_code == 2 and "--host is empty" in done.stderr
    assert run("serve", tmp_path).exit_code == 3


@pytest.mark.parametrize(
    ("host", "in_url", "warnings"),
    [
        ("127.0.0.1", "127.0.0.1", 0),
        ("0.0.0.0", "0.0.0.0", 2),
        ("::1", "[::1]", 0),
    ],
)
def test_serve_prints_an_address_that_can_be_opened(
    made: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, host: str, in_url: str, warnings: int
) -> None:
    class Opened:
        server_port, token = 8123, "t"

        def serve_forever(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(server, "open_server", lambda *rest: contextlib.nullcontext(Opened()))
    done = run("serve", made[0], "--host", host)
    assert done.exit_code == 0 and done.stdout == f"http://{in_url}:8123/?token=t\n"
    assert done.stderr.count("warning: ") == warnings
    assert ("give participants one of these instead" in done.stderr) == (warnings == 2)


@pytest.mark.parametrize("words", [["make", "nowhere"], ["serve", "nowhere"], ["score", "nowhere"]])
def test_no_command_needs_torch(words: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SAYS_TORCH, "study", *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 3 and done.stdout.strip() == "False", done.stderr


def test_a_whole_study_is_made_and_scored_without_torch(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, _ = made
    answers = tmp_path / "p1.json"
    answers.write_text(json.dumps(document(folder.read(out), "p1", prefer("lora"))))
    make = ["make", str(tmp_path / "evaluation"), "--root", str(tmp_path / "photos"), "--out", str(tmp_path / "again")]
    for words in (make, ["score", str(out), str(answers), "-q"]):
        done = subprocess.run(
            [sys.executable, "-c", SAYS_TORCH, "study", *words], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == "False", done.stderr
