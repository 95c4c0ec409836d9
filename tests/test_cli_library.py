"""list, show, rm, models: on stored personas, so that no model is needed."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pmagic.cli.app import app
from pmagic.library.store import Library
from pmagic.persona import Persona
from pmagic.tasks import reporting

Make = Callable[..., Persona]
runner = CliRunner()


def test_an_empty_library_is_an_empty_list(home) -> None:
    assert runner.invoke(app, ["list"]).stdout == ""
    assert json.loads(runner.invoke(app, ["list", "--json"]).stdout) == []
    assert not home.exists()  # looking makes nothing


def test_list_shows_every_version_and_the_damaged_ones_too(library: Library, persona: Make) -> None:
    library.save("alice", persona())
    library.save("alice", persona(word="woman"))
    library.save("bob", persona())
    (library.root / "bob" / "v0001" / "persona.toml").write_text("x")
    lines = runner.invoke(app, ["list"]).stdout.splitlines()
    assert lines[0].split() == ["PERSONA", "BASE", "WORD", "LEARNED", "WITH", "ITERATIONS", "SIZE", "CREATED"]
    assert lines[1].split()[:7] == ["alice@1", "mini", "face", "reference", "7", "0.0", "MB"]
    assert abs(datetime.strptime(lines[1][-16:], "%Y-%m-%d %H:%M") - datetime.now()) < timedelta(minutes=5)
    assert lines[2].split()[:3] == ["alice@2", "mini", "woman"]
    assert "cannot be used: persona.toml" in lines[3]
    found = json.loads(runner.invoke(app, ["list", "--json"]).stdout)
    assert [each["persona"] for each in found] == ["alice@1", "alice@2", "bob@1"]
    assert found[2]["error"] == "BundleDamaged"
    folder = library.root / "alice" / "v0001"
    assert found[0]["bytes"] == sum(each.stat().st_size for each in folder.iterdir())


def test_show_says_everything_and_checks_the_files(library: Library, persona: Make) -> None:
    library.save("alice", persona())
    text = runner.invoke(app, ["show", "alice"]).stdout
    assert "persona: alice@1" in text
    assert "bounds: dynamic for 400 <= t < 800" in text
    assert "curve: ▅▇  IoU 0.50 at t = 800 to 0.75 at t = 400" in text
    assert "learning_rate: 0.001" in text
    found = json.loads(runner.invoke(app, ["show", "alice@1", "--json"]).stdout)
    assert found["tensors"] == {"image_embedding": [8], "mapper.weight": [3, 4]}
    assert found["photos"] == ["b" * 64]


def test_a_damaged_persona_is_named_by_file_with_its_own_code(library: Library, persona: Make) -> None:
    library.save("alice", persona())
    path = library.root / "alice" / "v0001" / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    done = runner.invoke(app, ["show", "alice"])
    assert done.exit_code == 5
    assert done.stderr.startswith("error: tensors.safetensors: its SHA-256 does not agree")


def test_a_name_that_cannot_be_given_leaves_what_is_unfinished(library: Library, persona: Make) -> None:
    from pmagic.library import unfinished

    for name in ("alice", "carol"):
        library.save(name, persona())
    with unfinished.locked_run(library.root, "alice") as folder:
        (folder / "x.checkpoint").touch()
    assert runner.invoke(app, ["mv", "alice", "carol"]).exit_code == 2
    assert unfinished.names(library.root) == ["alice"]


def test_models_list_tells_what_is_here_with_size_and_licence() -> None:
    lines = runner.invoke(app, ["models", "list"]).stdout.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["MODEL", "dreamlike", "mini", "sd14", "sd15"]
    assert {line.split()[0] for line in lines[5:]} >= {"buffalo_l", "antelopev2", "CIDAS/clipseg-rd64-refined"}
    assert "CreativeML OpenRAIL-M" in lines[3]
    assert "4.3 GB" in lines[3]
    found = json.loads(runner.invoke(app, ["models", "list", "--json"]).stdout)
    assert found[2]["needs"] == ["clip-vit-base-patch32", "clipseg-rd64-refined", "buffalo_l"]
    found = {each["name"]: each for each in json.loads(runner.invoke(app, ["models", "list", "--json"]).stdout)}
    assert found["sd14"]["here"] is False and found["mini"]["needs"] == []
    assert found["openai/clip-vit-base-patch32"]["licence"] == "MIT"


def test_a_base_that_cannot_be_used_hides_no_other(home) -> None:
    """Neither a folder with code nor one with invalid values."""
    for name, file in (("CompVis--stable-diffusion-v1-4", "x.py"), ("owner--repo", "pmagic.toml")):
        folder = home / "models" / name
        folder.mkdir(parents=True)
        (folder / "model_index.json").write_text("{}")
        (folder / file).write_text("[[[")
    done = runner.invoke(app, ["models", "list"])
    assert done.exit_code == 0, done.output
    assert done.stdout.count("cannot be used: ") == 2 and "mini" in done.stdout
    sick = runner.invoke(app, ["doctor"])
    assert sick.exit_code == 1
    assert "holds Python code (x.py)" in sick.stdout and "sd14: cannot be used" in sick.stdout
    assert "mini: here" in sick.stdout


def test_models_pull_offline_says_what_to_do() -> None:
    done = runner.invoke(app, ["models", "pull", "sd14"])
    assert done.exit_code == 7
    assert "the hub cannot be reached" in done.stderr
    assert "--offline is given or HF_HUB_OFFLINE is set" in done.stderr
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["show", "alcie"], 3, "did you mean 'alice'?"),
        (["rm", "bo"], 3, "there is no persona 'bo'"),
        (["show", "a/b"], 2, "it contains '/'"),
        (["show", "alice@x"], 2, "does not address a version"),
        (["show", "alice@9"], 3, "'alice' has no version 9"),
        (["shw"], 2, "No such command 'shw'"),
        (["list", "--jsn"], 2, "No such option: --jsn"),
        (["show"], 2, "Missing argument 'name'"),
        (["models", "pull", "dreamlke"], 3, "did you mean 'dreamlike'?"),
    ],
)
def test_what_cannot_be_done_is_one_message(
    library: Library, persona: Make, words: list[str], code: int, said: str
) -> None:
    library.save("alice", persona())
    done = runner.invoke(app, words)
    assert done.exit_code == code
    assert done.stdout == ""
    assert done.stderr.count("error: ") == 1
    assert said in done.stderr
    assert "Traceback" not in done.output
    as_json = runner.invoke(app, [*words, "--json"])
    assert as_json.exit_code == code
    if "--jsn" not in words:
        assert json.loads(as_json.stdout)["exit_code"] == code


LONG = "x" * 300


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["import", LONG], 2, "longer than 100 bytes"),
        (["gallery", LONG], 2, "too long"),
        (["gallery", "--out", LONG], 8, "give a shorter name"),
        (["export", "alice", LONG], 2, "too long"),
        (["export", "alice", f"{LONG}/a.pmagic"], 2, "too long"),
        (["render", "alice", "x", "--out", LONG], 2, "too long"),
        (["models", "path", LONG], 2, "too long"),
        (["config", "set", "base", LONG], 2, "too long"),
        (["config", "set", "base", "~nosuchuser/x"], 2, "names the home folder of an unknown user"),
        (["models", "path", "~nosuchuser"], 2, "names the home folder of an unknown user"),
        (["render", "alice", "x", "--base", "~nosuchuser/x"], 2, "names the home folder of an unknown user"),
        (["render", "alice", "x", "--size", "9" * 5000], 2, "--size cannot be"),
        (["compose", "{alice}", "--layout", f"0,0,{'9' * 5000},9"], 2, "--layout cannot be"),
        (["eval", "--dataset", "world", "--workers", "9" * 5000], 2, "--workers cannot be"),
    ],
)
def test_what_no_file_and_no_number_can_be_is_no_defect(
    library: Library, persona: Make, tmp_path: Path, monkeypatch, words: list[str], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    library.save("alice", persona())
    done = runner.invoke(app, words)
    assert done.exit_code == code, done.stderr
    assert done.stderr.count("error: ") == 1 and said in done.stderr and len(done.stderr) < 800


def test_a_home_of_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMAGIC_HOME", "~nosuchuser")
    for words in (["list"], ["config", "get"], ["models", "list"], ["doctor"]):
        done = runner.invoke(app, words)
        assert done.exit_code == 2 and "'~nosuchuser' names the home folder of an unknown user" in done.stderr


def test_a_defect_is_one_line_and_leaves_its_traceback_in_a_log(home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Library, "summaries", lambda self: 1 / 0)
    done = runner.invoke(app, ["list"])
    assert done.exit_code == 1
    assert done.stderr.startswith("error: this is a defect of pmagic: ZeroDivisionError")
    assert "Traceback" not in done.output
    (log,) = (home / "logs").iterdir()
    assert str(log) in done.stderr
    assert "ZeroDivisionError: division by zero" in log.read_text()


def test_missing_memory_and_ctrl_c_have_their_own_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: BaseException) -> Callable:
        def raising(self: Library) -> None:
            raise error

        return raising

    monkeypatch.setattr(Library, "summaries", fail(MemoryError("Unable to allocate 8 TiB")))
    full = runner.invoke(app, ["list"])
    assert full.exit_code == 11 and "not enough memory for this: Unable to allocate 8 TiB" in full.stderr
    monkeypatch.setattr(Library, "summaries", fail(KeyboardInterrupt()))
    assert runner.invoke(app, ["list"]).exit_code == 130


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3900, "1 h 05 min")]
)
def test_durations(seconds: float, said: str) -> None:
    assert reporting.duration(seconds) == said


def test_size_and_licence_are_told_before_a_download_starts(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    from pmagic.bases import fetching

    order = fetching.DownloadPlan(
        repo="owner/repo",
        revision="c0ffee",
        licence="openrail",
        files=("model_index.json",),
        size=4_300_000_000,
        place=tmp_path / "x",
    )
    monkeypatch.setattr(fetching, "plan_downloads", lambda name: [order])
    monkeypatch.setattr(fetching, "fetch", lambda order, show: print("fetched", file=sys.stderr) or order.place)
    monkeypatch.setattr(fetching, "besides", lambda name: [])
    told = f"owner/repo: 4.30 GB to {tmp_path / 'x'}, licence: openrail"
    done = runner.invoke(app, ["models", "pull", "owner/repo", "--json", "-q"])  # and without a terminal
    assert done.stderr.splitlines() == [f"warning: {told}", "fetched"]
    assert json.loads(done.stdout)["warnings"] == [told]
    (fetched,) = json.loads(done.stdout)["fetched"]
    assert fetched == {
        "repo": "owner/repo",
        "bytes": 4_300_000_000,
        "licence": "openrail",
        "folder": str(tmp_path / "x"),
    }


def removal(*words: str, answer: bytes) -> tuple[int, str]:
    """Exit code and output of `pmagic rm` on a terminal on which somebody answers."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pmagic", "rm", *words], stdin=follower, stdout=follower, stderr=follower
    )
    os.close(follower)
    os.write(leader, answer)
    seen = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        seen += part
    os.close(leader)
    return process.wait(60), seen.decode()


def test_removing_several_versions_asks_on_a_terminal(library: Library, persona) -> None:
    for _ in range(3):
        library.save("alice", persona())
    code, said = removal("alice", answer=b"n\n")
    assert code == 2 and "this removes alice@1, alice@2, alice@3 and cannot be undone; continue? [y/N]" in said
    assert "nothing was removed" in said and library.versions("alice") == [1, 2, 3]
    assert removal("alice@3", answer=b"")[0] == 0 and library.versions("alice") == [1, 2]  # one is what was named
    assert removal("alice", answer=b"y\n")[0] == 0 and library.versions("alice") == []
    for _ in range(2):
        library.save("bob", persona())
    assert removal("bob", "--yes", answer=b"")[0] == 0 and library.versions("bob") == []
    for _ in range(2):
        library.save("carol", persona())
    assert runner.invoke(app, ["rm", "carol"]).exit_code == 0  # without a terminal nobody could answer
