"""Pictures with their metadata, prompt files, grids and the terminal, on a tiny random base."""

import fcntl
import io
import json
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from pathlib import Path
from xml.etree import ElementTree

import pytest
import tiny
from PIL import ExifTags, Image, PngImagePlugin
from tiny import tiny_folders  # noqa: F401 - a fixture
from typer.testing import CliRunner

from pmagic import pictures, sheet
from pmagic.bases import memory_estimate, model_spec
from pmagic.cli import prompt_files, reproduce
from pmagic.cli.app import app
from pmagic.errors import UsageError
from pmagic.library.store import Library
from pmagic.tasks import base_options

runner = CliRunner()


@pytest.fixture
def alice(library: Library, tmp_path: Path, tiny_folders: dict[str, Path]) -> Library:  # noqa: F811
    photo = tmp_path / "alice.png"
    tiny.photo(3).save(photo)
    words = ["--base", str(tiny_folders["sd1"]), "--iterations", "1", "--recipe", "reference", "--name", "alice"]
    assert runner.invoke(app, ["learn", str(photo), *words]).exit_code == 0
    return library


def test_the_command_that_info_prints_gives_the_same_bytes(alice: Library, tmp_path: Path) -> None:
    """For each format, drawn at once with others or one by one, whatever config.toml says by then."""
    prompt = 'an "oil" painting of {} & $HOME; `x`'
    for kind, ending, together in (("png", ".png", True), ("jpeg", ".jpg", False), ("webp", ".webp", True)):
        words = ["alice", prompt, "-n", "2", "--seed", "5", "--steps", "2", "--format", kind, "--negative", "-a 'hat'"]
        words += [] if together else ["--exact"]
        done = runner.invoke(app, ["render", *words, "--out", str(tmp_path / "one")])
        first = Path(done.stdout.splitlines()[1])
        assert done.exit_code == 0 and first.suffix == ending
        runner.invoke(app, ["config", "set", "format", "jpeg" if kind == "png" else "png"])
        command = runner.invoke(app, ["info", "-q", str(first)]).stdout.strip()
        program, *again = shlex.split(command)
        assert program == "pmagic" and f"--seed={5 if together else 6}" in again
        assert ("--count=2" in again and "--memory=normal" in again) is together
        repeated = runner.invoke(app, [*again, "--out", str(tmp_path / "two")])
        assert repeated.exit_code == 0, repeated.stderr
        assert Path(repeated.stdout.splitlines()[-1]).read_bytes() == first.read_bytes()


def test_a_picture_says_that_it_was_drawn_together_with_others(alice: Library, tmp_path: Path) -> None:
    words = ["alice", "as a cowboy", "--steps", "2", "--memory", "normal", "--out", str(tmp_path)]
    done = runner.invoke(app, ["render", *words, "-n", "3"])
    together = runner.invoke(app, ["info", "-q", done.stdout.splitlines()[0]])
    assert together.stdout.startswith("pmagic render ") and "one of 3 drawn at once" in together.stderr
    assert "draws them all, and this is number 1 of them, with seed 0" in together.stderr
    done = runner.invoke(app, ["render", *words, "--seed", "9"])
    alone = runner.invoke(app, ["info", "-q", done.stdout.strip()])
    assert alone.stdout.startswith("pmagic render ") and not alone.stderr
    about = json.loads(runner.invoke(app, ["info", done.stdout.strip(), "--json"]).stdout)
    assert about["at_once"] == 1 and "first_seed" not in about


def test_pictures_are_drawn_at_once_as_memory_allows(
    alice: Library,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_folders: dict[str, Path],  # noqa: F811
) -> None:
    """Of 9: 8 and 1; 7 and 2 where no 8 fit; one by one where none is free, where it is unknown, and on request."""
    words = ["render", "alice", "x", "-n", "9", "--steps", "1", "--json"]
    spec = model_spec.resolve(str(tiny_folders["sd1"]))
    too_little = memory_estimate.memory_to_draw(spec, 8, (64, 64)) - 1  # for 8 at once
    for free, options, expected in (
        (10**12, [], [8] * 8 + [1]),
        (too_little, ["--size", "64", "--dtype", "float32"], [7] * 7 + [2] * 2),
        (0, [], [1] * 9),
        (None, [], [1] * 9),
        (10**12, ["--exact"], [1] * 9),
        (10**12, ["--memory", "low"], [1] * 9),
        (0, ["--memory", "normal"], [8] * 8 + [1]),
    ):
        monkeypatch.setattr(base_options, "memory_free", lambda place, free=free: free)
        done = runner.invoke(app, [*words, *options, "--out", str(tmp_path / f"{free}{options}")])
        files = [picture["file"] for picture in json.loads(done.stdout)["pictures"]]
        assert [pictures.read_metadata(Path(each))["at_once"] for each in files] == expected
    both = runner.invoke(app, ["render", "alice", "x", "--exact", "--memory", "normal"])
    assert both.exit_code == 2 and "--exact draws one by one" in both.stderr


@pytest.mark.parametrize(
    ("first", "count", "seed", "seeds"),
    [
        (5, 3, 6, range(5, 8)),
        *((5, count, 5, range(0)) for count in (1, 9, 10**9, "3", None)),
        *((first, 3, 6, range(0)) for first in (0, 7, -1, "5", None)),
        (5, 3, "6", range(0)),
    ],
)
def test_a_batch_that_a_picture_cannot_have_is_not_repeated(
    first: object, count: object, seed: object, seeds: range
) -> None:
    assert reproduce.batch_of({"first_seed": first, "at_once": count, "seed": seed}) == seeds


def test_info_warns_where_the_persona_is_another_one_by_now(
    alice: Library,
    tmp_path: Path,
    tiny_folders: dict[str, Path],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert runner.invoke(app, ["cp", "alice", "Smith, Jane"]).exit_code == 0
    words = ["{alice} with {Smith, Jane}", "--steps", "2", "--out", str(tmp_path)]
    picture = runner.invoke(app, ["compose", *words]).stdout.strip()
    about = json.loads(runner.invoke(app, ["info", picture, "--json"]).stdout)
    assert set(about["persona_sha256"]) == {"alice@1", "Smith, Jane@1"} and about["warnings"] == []
    assert len(set(about["persona_sha256"].values())) == 1  # by whatever name
    assert runner.invoke(app, ["info", picture]).stderr == ""
    assert runner.invoke(app, ["rm", "alice"]).exit_code == 0
    gone = runner.invoke(app, ["info", picture])
    assert gone.exit_code == 0 and "there is no persona 'alice'" in gone.stderr and "again:" in gone.stdout
    assert "Jane" not in gone.stderr
    learn = ["learn", str(tmp_path / "alice.png"), "--base", str(tiny_folders["sd1"]), "--recipe", "reference"]
    assert runner.invoke(app, [*learn, "--iterations", "2", "--name", "alice"]).exit_code == 0
    other = runner.invoke(app, ["info", picture])
    assert "alice@1 is not the persona that drew this" in other.stderr
    monkeypatch.setenv("PMAGIC_HOME", "~nobody-of-that-name")
    unread = runner.invoke(app, ["info", picture])
    assert unread.exit_code == 0 and "cannot be read from the library" in unread.stderr


@pytest.mark.parametrize("told", [3, "a", ["a"], {"../x": 3}, {"a\nb": None}, {str(k): "a" for k in range(5000)}])
def test_a_story_may_say_anything_of_its_personas(tmp_path: Path, library: Library, told: object) -> None:
    story = {"persona": "a@1", "prompt": "{}", **dict.fromkeys(("seed", "steps", "guidance"), 1), "size": [8, 8]}
    story |= {**dict.fromkeys(("scheduler", "negative", "device", "dtype"), "x"), "persona_sha256": told}
    (tmp_path / "p.png").write_bytes(pictures.encode_image(Image.new("RGB", (8, 8)), "png", story))
    done = runner.invoke(app, ["info", "-q", str(tmp_path / "p.png")])
    assert done.exit_code == 0 and done.stdout.startswith("pmagic render")
    assert done.stderr.count("\n") == (min(len(told), 64) if isinstance(told, dict) else 0)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_every_format_carries_mark_story_and_parameters(kind: str, tmp_path: Path) -> None:
    story = {"prompt": "a photo of <zoë> 村上", "negative": "blur", "steps": 5, "seed": 7, "size": [48, 40]}
    data = pictures.encode_image(Image.new("RGB", (48, 40), (9, 99, 200)), kind, story)
    assert data == pictures.encode_image(Image.new("RGB", (48, 40), (9, 99, 200)), kind, story)
    (tmp_path / "p").write_bytes(data)
    assert pictures.read_metadata(tmp_path / "p") == {**story, "format": kind}
    with Image.open(io.BytesIO(data)) as image:
        xmp = image.info.get("xmp") or image.info["XML:com.adobe.xmp"].encode()
        said = ElementTree.fromstring(xmp).find(".//{*}Description").attrib
        assert pictures.DIGITAL_SOURCE in said.values()
        if kind == "png":
            parameters = image.text["parameters"]
        else:
            comment = image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
            assert comment.startswith(b"UNICODE\0")
            parameters = comment[8:].decode("utf-16-be")
    assert parameters.startswith("a photo of <zoë> 村上\nNegative prompt: blur\nSteps: 5")


def test_a_story_that_a_jpeg_cannot_hold_is_told() -> None:
    with pytest.raises(UsageError, match="too long for this format"):
        pictures.encode_image(Image.new("RGB", (40, 40)), "jpeg", {"prompt": "hat " * 20_000})


def test_prompts_from_standard_input_and_a_grid(alice: Library, tmp_path: Path) -> None:
    words = ["render", "alice", "-", "-n", "2", "--steps", "1", "--grid", "--json", "--exact"]
    words += ["--out", str(tmp_path / "out")]
    done = runner.invoke(app, words, input="as a cowboy\n\n  {} in snow\nas a cowboy\n")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert [each["seed"] for each in document["pictures"]] == [0, 1] * 3
    assert document["prompt"] == ["a photo of <alice> as a cowboy", "<alice> in snow", "a photo of <alice> as a cowboy"]
    with Image.open(document["grid"]) as grid:
        left, top = 2 * sheet.GAP + sheet.CELL, 2 * sheet.LINE
        second = sheet.scale_to(Image.open(document["pictures"][1]["file"]), sheet.CELL)
        shown = grid.crop((left, top, left + sheet.CELL, top + sheet.CELL))
        assert shown.tobytes() == second.tobytes()
    (tmp_path / "prompts.txt").write_text("as a cowboy\n", "utf-8-sig")
    file = ["render", "alice", "--prompts", str(tmp_path / "prompts.txt"), "--steps", "1", "--out", str(tmp_path)]
    alone = runner.invoke(app, file)
    assert Path(alone.stdout.strip()).read_bytes() == Path(document["pictures"][0]["file"]).read_bytes()
    about = runner.invoke(app, ["info", document["grid"]])
    assert about.exit_code == 0 and "kind: grid" in about.stdout and "again:" not in about.stdout


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"", "holds no prompt"), (b"\xff", "is not UTF-8"), (b"x" * (1024**2 + 1), "more than 1 MB")],
)
def test_a_file_of_prompts_that_cannot_be_used(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "p").write_bytes(data)
    with pytest.raises(UsageError, match=said):
        prompt_files.prompts(None, tmp_path / "p")
    with pytest.raises(UsageError, match="cannot be read"):
        prompt_files.prompts(None, tmp_path)
    with pytest.raises(UsageError, match="Missing argument 'prompt'"):
        prompt_files.prompts(None, None)


def on_terminal(code: str, columns: int = 80, **environment: str) -> str:
    """The output of a program whose streams are all a terminal."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=follower, stdout=follower, stderr=follower, close_fds=True, env={**os.environ, **environment},
    )  # fmt: skip
    os.close(follower)
    seen = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        seen += part
    assert process.wait(60) == 0, seen
    return seen.decode(errors="replace")


def test_a_picture_in_the_terminal_and_none_where_there_is_none(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), (200, 30, 30)).save(tmp_path / "p.png")
    code = (
        "from pmagic.cli.terminal import show_pictures; from pmagic.cli.console import Console; "
        f"show_pictures(Console(), [{str(tmp_path / 'p.png')!r}])"
    )
    plain = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "NO_COLOR": ""}
    assert "\x1b[38;2;200;30;30" in on_terminal(code, **plain)
    assert "does not say how large it is" in on_terminal(code, columns=0, **plain)
    assert "NO_COLOR or TERM=dumb" in on_terminal(code, **{**plain, "NO_COLOR": "1"})
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert piped.stdout == "" and "only where standard output is a terminal" in piped.stderr


def test_the_bar_has_no_colour_with_no_color_and_quiet_has_no_bar() -> None:
    code = (
        "from pmagic.cli.console import Console\nimport sys\n"
        "with Console(quiet='q' in sys.argv).progress('learning') as advance:\n advance(1, 2, 'x')\n"
    )
    plain = {"TERM": "xterm-256color", "NO_COLOR": ""}
    assert "\x1b[38;" in on_terminal(code, **plain) or "\x1b[3" in on_terminal(code, **plain)
    assert "\x1b[3" not in on_terminal(code, **{**plain, "NO_COLOR": "1"})
    assert on_terminal("import sys; sys.argv.append('q')\n" + code, **plain) == ""


def test_after_a_few_steps_the_time_left_is_told_once() -> None:
    code = (
        "from pmagic.cli.console import Console\nimport time\n"
        "with Console().progress('drawing') as advance:\n"
        " for done in range(1, 9):\n  advance(done, 104, ''); time.sleep(0.1)\n"
    )
    assert re.findall(r"about (\d+) s to go", on_terminal(code, TERM="xterm")) in (["10"], ["11"], ["12"])


def test_info_shows_what_another_program_wrote_and_says_so(tmp_path: Path) -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("parameters", "a cowboy\nagain: rm\r\nSteps: 20\x1b[31m")
    notes.add_text("workflow", "x" * 5000)
    notes.add_text("empty", "")
    path = tmp_path / "other.png"
    Image.new("RGB", (64, 64)).save(path, pnginfo=notes)
    done = runner.invoke(app, ["info", str(path)])
    assert done.exit_code == 0 and "another program wrote" in done.stderr
    lines = done.stdout.split("\n")
    assert lines[:4] == ["parameters:", "  a cowboy", "  again: rm", "  Steps: 20\\x1b[31m"] and "empty: " in lines
    assert "5000 characters" in done.stdout and len(done.stdout) < 2500
    document = json.loads(runner.invoke(app, ["info", "--json", str(path)]).stdout)
    assert document["texts"]["workflow"] == "x" * 5000 and document["command"] == ""
    assert runner.invoke(app, ["info", "-q", str(path)]).stdout == ""
    Image.new("RGB", (64, 64)).save(path)
    refused = runner.invoke(app, ["info", str(path)])
    assert refused.exit_code == 4 and "does not carry settings of pmagic" in refused.stderr
