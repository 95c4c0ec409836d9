"""Drift and costs of an evaluation of several methods, through the program on a tiny base."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from evaluated import PROMPTS
from PIL import Image
from typer.testing import CliRunner, Result

from pmagic import pictures
from pmagic.cli.app import app
from pmagic.evaluation import costs
from pmagic.evaluation.costs import Cost
from pmagic.evaluation.store import Store

runner = CliRunner()


@pytest.fixture
def evaluate(eval_folder: Path, people: Path, prompts_file: Path) -> Callable[..., Result]:
    def run(out: Path, *more: str) -> Result:
        words = ["--dataset", "folder", "--root", people, "--prompts", prompts_file, "--base", eval_folder]
        return runner.invoke(
            app, ["eval", *map(str, words), "--out", str(out), "--people", "2", "-n", "2", "--iterations", "2", *more]
        )

    return run


def test_methods_are_compared_by_drift_and_cost(evaluate: Callable[..., Result], tmp_path: Path) -> None:
    out = tmp_path / "out"
    rows = ("textual_inversion", "dreambooth")
    done = evaluate(out, "--method", ",".join(rows), "--recipe", "reference", "--json")
    assert done.exit_code == 0, (done.stderr, done.exception)
    document = json.loads(done.stdout)
    means = {(each["variant"], each["column"]): each for each in document["means"]}
    for row in rows:
        assert means[row, "drift"]["people"] == 2 and means[row, "drift"]["pictures"] == 2 * len(PROMPTS)
        assert 0 <= means[row, "drift_obeyed"]["value"] <= 1
    # Of an embedding method, the plain word is the base's own, for everybody; of one with weights, it is not.
    plain = {
        row: {
            (each["person"], each["prompt"]): Image.open((out / each["file"]).with_name("plain.png")).tobytes()
            for each in document["pictures"]
            if each["variant"] == row
        }
        for row in rows
    }
    assert len(set(plain["textual_inversion"].values())) == len(PROMPTS)
    assert len(set(plain["dreambooth"].values())) == 2 * len(PROMPTS)
    assert set(plain["dreambooth"].values()).isdisjoint(plain["textual_inversion"].values())
    first = (out / document["pictures"][0]["file"]).with_name("plain.png")
    assert pictures.read_metadata(first)["prompt"] == PROMPTS[0].replace("{}", "face")
    for row in rows:
        cost = document["costs"][row]
        assert cost["learn_seconds"] > 0 and cost["picture_seconds"] > 0
    sizes = [sum(file.stat().st_size for file in folder.iterdir()) for folder in out.glob("people/*/*/persona")]
    assert sorted(sizes)[-1] == pytest.approx(document["costs"]["dreambooth"]["kept_bytes"], rel=1e-3)
    lines = list(csv.DictReader((out / "costs.csv").open()))
    assert [each["variant"] for each in lines] == list(rows)
    table = evaluate(out, "--method", ",".join(rows), "--recipe", "reference").stdout.splitlines()
    assert all(head in table[0] for head in (*costs.HEADS, "drift", "drift_obeyed"))
    assert json.loads((out / "results.json").read_text())["means"] == document["means"]
    assert "costs" not in json.loads((out / "results.json").read_text())


def test_times_are_read_and_an_unknown_one_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.seconds() == {}
    (tmp_path / "times.csv").write_text("a,x/persona,2.500\na,x/y-01,\nbroken\na,z,4\n")
    assert store.seconds() == {("a", "x/persona"): 2.5, ("a", "z"): 4.0}
    cost = Cost(learn_seconds=None, kept_bytes=2.5e6, picture_seconds=0.125)
    assert costs.cells(cost) == ["-", "2.500", "0.12"] and costs.cells(None) == ["", "", ""]
    assert costs.as_csv({"lora": cost}) == (
        b"variant,learn_seconds,kept_bytes,picture_seconds\nlora,,2500000.000,0.125\n"
    )
