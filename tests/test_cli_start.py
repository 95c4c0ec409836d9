"""Starting: help and list without the heavy libraries, quickly, and completion as the program itself prints it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from crowd import MAIN, SETTINGS, fill, run, seconds_of

from pmagic.bases import adapter_files
from pmagic.library import bundle
from pmagic.library.store import Library
from pmagic.persona import Persona

COMPLETIONS = Path(__file__).parents[1] / "completions"
SECONDS = 0.3
PYDANTIC = 0.15  # typer's own parsing takes about this long on a busy machine
MANY = 2000  # personas
HEAVY = ("torch", "transformers", "diffusers", "numpy", "PIL", "huggingface_hub", "insightface")


@pytest.mark.parametrize("words", [["--help"], ["list"], ["list", "--json"], ["rm", "nobody"], ["learn", "--help"]])
def test_nothing_heavy_is_imported(words: list[str]) -> None:
    code = (
        "import sys, atexit; "
        f"atexit.register(lambda: print('HEAVY', [each for each in {HEAVY!r} if each in sys.modules])); {MAIN}"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []", done.stderr


def test_the_start_takes_under_a_third_of_a_second_however_many_personas_there_are(
    library: Library, persona: Callable[..., Persona]
) -> None:
    few = seconds_of("show", str(library.save("alice", persona(settings=SETTINGS))))
    fill(library.root, bundle.pack(persona(settings=SETTINGS)), range(MANY))
    help_, listed, completed = (
        seconds_of("--help"),
        seconds_of("list"),
        seconds_of(_PMAGIC_COMPLETE="complete_bash", COMP_WORDS="pmagic show person0012", COMP_CWORD="2"),
    )
    assert help_ < SECONDS, help_
    assert completed < SECONDS + PYDANTIC, completed
    assert seconds_of("show", "alice") < few + 0.1
    assert (listed - help_) * 1000 / MANY < 0.4, listed  # seconds for a thousand, ten times less than parsing them


@pytest.mark.parametrize(("shell", "file"), [("bash", "pmagic.bash"), ("zsh", "_pmagic"), ("fish", "pmagic.fish")])
def test_the_completions_are_what_the_program_prints(shell: str, file: str) -> None:
    printed = run(_PMAGIC_COMPLETE=f"source_{shell}")
    assert printed.returncode == 0, printed.stderr
    assert (COMPLETIONS / file).read_text() == printed.stdout.strip() + "\n"
    if shell == "zsh":
        assert printed.stdout.strip().startswith("#compdef pmagic\n")  # compinit reads the first line alone


def complete(words: str) -> list[str]:
    """What bash would be offered after these words."""
    count = str(len(words.split()) - (0 if words.endswith(" ") else 1))
    done = run(_PMAGIC_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=count)
    return done.stdout.split()


def test_commands_and_personas_are_completed(library: Library, persona: Callable[..., Persona]) -> None:
    library.save("alice", persona())
    library.save("alan", persona())
    library.save("bob", persona())
    assert complete("pmagic sho") == ["show"]
    assert complete("pmagic show al") == ["alan", "alice"]
    assert complete("pmagic learn p.png --base mi") == ["mini"]
    assert complete("pmagic render alice x --base mi") == ["mini"]
    fetched = ["dreamlike", "sd14", "sd15", "sdxl", "buffalo_l", "antelopev2", *adapter_files.KNOWN]
    assert complete("pmagic models pull ") == fetched
    assert complete("pmagic render alice x --with ip-adapter-f") == ["ip-adapter-full-face"]
    assert complete("pmagic learn p.png --recipe ref") == ["reference"]
    assert "--scheduler" in complete("pmagic render alice x --s")


def test_help_names_every_command_and_no_other() -> None:
    text = run("--help").stdout
    commands = [line.split()[0] for line in text.partition("Commands:")[2].splitlines() if line.strip()]
    more = ["info", "gallery", "doctor", "serve", "shell", "methods", "study", "models", "config"]
    library = ["list", "show", "mv", "cp", "rm", "export", "import", "verify", "path"]
    assert commands == ["demo", "setup", "sample", "learn", "probe", "render", "compose", "eval", *library, *more]
