"""Starting: help and list without the heavy libraries, quickly, and completion as the program itself prints it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pmagic.library.store import Library
from pmagic.persona import Persona

COMPLETIONS = Path(__file__).parents[1] / "completions"
SECONDS = 0.3
MAIN = "import sys; sys.argv[0] = 'pmagic'; from pmagic.cli.app import main; main()"
HEAVY = ("torch", "transformers", "diffusers", "numpy", "PIL", "huggingface_hub", "insightface")


def run(*words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", MAIN, *words], capture_output=True, text=True, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("words", [["--help"], ["list"], ["list", "--json"], ["rm", "nobody"], ["learn", "--help"]])
def test_nothing_heavy_is_imported(words: list[str]) -> None:
    code = (
        "import sys, atexit; "
        f"atexit.register(lambda: print('HEAVY', [each for each in {HEAVY!r} if each in sys.modules])); {MAIN}"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []", done.stderr


@pytest.mark.parametrize("words", [["--help"], ["list"]])
def test_the_start_takes_under_a_third_of_a_second(words: list[str]) -> None:
    run(*words)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        assert run(*words).returncode == 0
        times.append(time.perf_counter() - start)
    assert min(times) < SECONDS, times  # the quickest: a busy machine is not the program's fault


@pytest.mark.parametrize(("shell", "file"), [("bash", "pmagic.bash"), ("zsh", "_pmagic"), ("fish", "pmagic.fish")])
def test_the_completions_are_what_the_program_prints(shell: str, file: str) -> None:
    printed = run(_PMAGIC_COMPLETE=f"source_{shell}")
    assert printed.returncode == 0, printed.stderr
    assert (COMPLETIONS / file).read_text().strip() == printed.stdout.strip()


def complete(words: str) -> list[str]:
    """What bash would be offered after these words."""
    count = str(len(words.split()) - (0 if words.endswith(" ") else 1))
    done = run(_PMAGIC_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=count)
    return done.stdout.split()


def test_commands_and_personas_are_completed(library: Library, persona: Callable[..., Persona]) -> None:
    library.save("alice", persona())
    library.save("alan", persona())
    library.save("bob", persona())
    assert complete("pmagic sh") == ["show"]
    assert complete("pmagic show al") == ["alan", "alice"]
    assert complete("pmagic learn p.png --base mi") == ["mini"]
    assert complete("pmagic learn p.png --recipe ref") == ["reference"]
    assert "--scheduler" in complete("pmagic render alice x --s")


def test_help_names_every_command_and_no_other() -> None:
    text = run("--help").stdout
    commands = [line.split()[0] for line in text.partition("Commands:")[2].splitlines() if line.strip()]
    more = ["info", "gallery", "doctor", "models", "config"]
    library = ["list", "show", "mv", "cp", "rm", "export", "import", "verify", "path"]
    assert commands == ["learn", "probe", "render", "compose", *library, *more]
