"""Hostile text: control characters, markup and what a shell would obey, wherever a text from outside is shown."""

from collections.abc import Callable

import pytest
from test_cli_archives import STORY
from typer.testing import CliRunner

from pmagic.cli import console, stories
from pmagic.cli import render as rendering
from pmagic.cli.app import app
from pmagic.errors import UsageProblem
from pmagic.library.naming import Address
from pmagic.library.store import Library
from pmagic.persona import Persona

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
    with pytest.raises(UsageProblem, match="not valid text"):
        rendering.whole_prompt("\udcff", Address("alice", 1))


def test_info_quotes_what_a_shell_would_obey() -> None:
    story = {**STORY, "format": "png"}
    assert "'$(rm -rf ~)'" in stories.repeat({**story, "prompt": "$(rm -rf ~)"})
    assert stories.repeat({**story, "prompt": "-n{}"}).endswith(" -- alice@1 '-n{}'")
    assert "--negative='; reboot'" in stories.repeat({**story, "negative": "; reboot"})
