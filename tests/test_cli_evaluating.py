"""`pmagic eval` through the program, on a tiny random base: the real engine and the real observers, no doubles."""

import csv
import json
from pathlib import Path

import pytest
from evaluated import PROMPTS, eval_folder, people, prompts_file  # noqa: F401 - fixtures
from tiny import faced_folder, tiny_folders  # noqa: F401 - fixtures
from typer.testing import CliRunner, Result

from pmagic.cli.app import app

runner = CliRunner()


def evaluate(base: Path, root: Path, prompts: Path, out: Path, *more: str, people: int = 3) -> Result:  # noqa: F811
    words = ["--dataset", "folder", "--root", root, "--prompts", prompts, "--base", base, "--out", out]
    return runner.invoke(app, ["eval", *map(str, words), "--people", str(people), "-n", "2", *more])


def test_it_ends_in_tables_plots_and_a_report(eval_folder: Path, people: Path, prompts_file: Path, tmp_path) -> None:  # noqa: F811
    done = evaluate(eval_folder, people, prompts_file, tmp_path / "out", "--recipe", "paper,reference", "--json")
    assert done.exit_code == 0, (done.stdout, done.stderr, done.exception)
    print(done.stdout[:3000])
    import shutil
    shutil.rmtree('/tmp/eval/out', ignore_errors=True)
    shutil.copytree(tmp_path / 'out', '/tmp/eval/out')
