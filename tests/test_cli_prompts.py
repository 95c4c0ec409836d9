"""Warnings about prompts that the base reads differently, and the seeds and devices that the commands accept."""

import json
from pathlib import Path

import pytest
import tiny
from test_cli_compose import learned, people  # noqa: F401 - fixtures
from tiny import tiny_base, tiny_folders  # noqa: F401 - fixtures
from typer.testing import CliRunner, Result

from pmagic.cli.app import app
from pmagic.library.store import Library

runner = CliRunner()


@pytest.fixture(autouse=True)
def drawn(people: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    monkeypatch.chdir(tmp_path)
    return tmp_path


def draw(*words: str, text: str | None = None) -> Result:
    return runner.invoke(app, [*words, "--steps", "1", "--json"], input=text)


def warnings(done: Result) -> list[str]:
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)["warnings"]


def test_a_negative_prompt_that_is_too_long_is_told() -> None:
    long = "snow " * (tiny.LENGTH - 2) + "a dog"
    for words in (["render", "alice", "as a cowboy"], ["compose", "{alice} in snow"]):
        done = draw(*words, "--negative", long)
        assert warnings(done) == ["the negative prompt is too long; the base does not read: 'a dog'"]
        assert json.loads(done.stdout)["cut"] == "a dog"
    both = draw("render", "alice", "in " + long, "--negative", long)
    assert json.loads(both.stdout)["cut"].endswith("a dog; a dog")
    assert json.loads(draw("render", "alice", "x", "--negative", "snow").stdout)["cut"] == ""


@pytest.mark.parametrize(
    "words", [["render", "alice", "%s"], ["compose", "{alice} %s"], ["render", "alice", "x", "--negative", "%s"]]
)
def test_what_other_tools_obey_is_told_once(words: list[str]) -> None:
    done = draw(*(word.replace("%s", "(as a cowboy:1.3) BREAK <lora:x:1>") for word in words))
    (told,) = warnings(done)
    assert told.startswith("(as a cowboy:1.3), BREAK, <lora:x:1>: other tools obey this") and "reads it as text" in told


def test_several_prompts_tell_it_once_too() -> None:
    assert len(warnings(draw("render", "alice", "-", text="(a:1.1)\n[b]\n(a:1.2)\n(a:1.3)\n"))) == 1


def test_a_persona_without_braces_gets_a_hint() -> None:
    (told,) = warnings(draw("render", "alice", "Alice as a cowboy"))
    assert "without brackets, alice is an ordinary word" in told and "{} or <alice>" in told
    (told,) = warnings(draw("compose", "{alice} and bob in snow"))
    assert "bob; for the persona write {bob}" in told
    assert warnings(draw("render", "alice", "<alice> as a cowboy")) == []
    assert warnings(draw("compose", "{alice} and {bob} in snow")) == []


def test_a_file_of_prompts_is_read_as_an_evaluation_reads_it(drawn: Path) -> None:
    text = "# scenes\nas a cowboy\n\n  # more\nin \u2028 snow\n"
    (drawn / "p.txt").write_text(text)
    for done in (draw("render", "alice", "-", text=text), draw("render", "alice", "--prompts", "p.txt")):
        assert json.loads(done.stdout)["prompt"] == [
            "a photo of <alice> as a cowboy",
            "a photo of <alice> in \u2028 snow",
        ]


def test_a_random_seed_is_one_that_can_be_given_again() -> None:
    first, second = (json.loads(draw("render", "alice", "x", "--seed", "random").stdout) for _ in range(2))
    seeds = [each["pictures"][0]["seed"] for each in (first, second)]
    assert seeds[0] != seeds[1] and all(0 <= seed < 2**31 for seed in seeds)
    again = json.loads(draw("render", "alice", "x", "--seed", str(seeds[0])).stdout)
    files = [Path(each["pictures"][0]["file"]) for each in (first, again)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("device", ["mps", "xpu", "hpu", "mtia", "xla", "cuda:99", "meta", "gpu", "MPS"])
def test_a_device_that_is_not_here_is_one_line(device: str) -> None:
    done = runner.invoke(app, ["render", "alice", "x", "--device", device])
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 2 and len(done.stderr) < 300, done.stderr
    assert f"the device {device.lower()!r} is not" in done.stderr.lower()
    assert runner.invoke(app, ["render", "alice", "x", "--device", "CPU", "--steps", "1"]).exit_code == 0
