"""Learning that survives: signals, --resume, NaN, missing memory. Real processes and the real engine on a tiny base."""

import errno
import json
import os
import random
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from test_library_crashes import FaultyDisk
from tiny import own_folder, tiny_folders  # noqa: F401 - fixtures
from typer.testing import CliRunner, Result

import pmagic
from pmagic.cli import resuming
from pmagic.cli.app import app
from pmagic.engine import checkpoint, memory, recipes, training
from pmagic.errors import Incompatible, NotFound, OutOfMemory, UsageError
from pmagic.library import unfinished
from pmagic.library.store import Library

runner = CliRunner()
FAST = ["--recipe", "reference", "--iterations"]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "alice.png"
    tiny.photo(3).save(path)
    return path


@pytest.fixture
def base(tiny_folders: dict[str, Path]) -> str:  # noqa: F811
    return str(tiny_folders["sd1"])


def weights(library: Library, name: str) -> bytes:
    return (library.root / name / "v0001" / "tensors.safetensors").read_bytes()


@pytest.mark.parametrize("every", [1, 3, 50])
def test_killed_at_any_step_resume_ends_with_the_same_bytes(
    library: Library, photo: Path, base: str, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    """With several checkpoint intervals: a kill at any step leaves exactly the last checkpoint."""

    class Killed(BaseException):
        pass

    monkeypatch.setattr(training, "SAVE_EVERY", every)
    words = ["learn", str(photo), "--base", base, *FAST, "8", "--name"]
    assert runner.invoke(app, [*words, "whole"]).exit_code == 0
    dice = random.Random(every)
    real = training.optimizer_step
    for _ in range(2):
        left = [min(every, 4) + dice.randrange(1, 3)]  # at 1 and 3 there is a checkpoint by then, at 50 not

        def dying(*given: object, left: list[int] = left) -> object:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return real(*given)

        monkeypatch.setattr(training, "optimizer_step", dying)
        with pytest.raises(Killed):
            runner.invoke(app, [*words, "alice"])
        monkeypatch.setattr(training, "optimizer_step", real)
    resumed = unfinished.resumable_names(library.root) == ["alice"]
    again = runner.invoke(app, ["learn", "--resume"] if resumed else [*words, "alice"])
    assert again.exit_code == 0, again.stderr
    assert resumed is (every < 50)  # without any checkpoint there is nothing to go on from
    assert weights(library, "alice") == weights(library, "whole")
    assert not (library.root / ".unfinished" / "alice").exists()


def test_previews_are_drawn_and_change_nothing(
    library: Library, photo: Path, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["learn", str(photo), "--base", base, *FAST, "5", "--name"]
    assert runner.invoke(app, [*words, "alice"]).exit_code == 0
    done = runner.invoke(app, [*words, "bob", "--preview-every", "2", "--json"])
    assert json.loads(done.stdout)["previews"] == ["bob-previews/step-00002.png", "bob-previews/step-00004.png"]
    assert weights(library, "alice") == weights(library, "bob")
    told = runner.invoke(app, ["info", "bob-previews/step-00002.png"])
    assert "step: 2" in told.stdout and "no single command draws it again" in told.stderr
    assert library.load("alice")[1].preview.startswith(b"\x89PNG")


def test_last_bits_of_what_was_seen_do_not_part_a_learning_from_its_checkpoint(tmp_path: Path) -> None:
    learner = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(learner.parameters())
    learner(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    seen = torch.linspace(0, 1, 50)  # a mask, say
    checkpoint.Checkpoint(tmp_path / "a", "x", {"mask": seen}).save(7, {}, learner, optimizer)
    same = checkpoint.Checkpoint(tmp_path / "a", "x", {"mask": seen + 1e-6})
    assert same.restore(learner, optimizer)[0] == 7
    for other in (seen.flip(0), seen[:9]):
        with pytest.raises(Incompatible, match="another photo"):
            checkpoint.Checkpoint(tmp_path / "a", "x", {"mask": other}).restore(learner, optimizer)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ..."), "takes 20.00 GiB"),
        (
            RuntimeError(
                "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 8589934592 bytes."
            ),
            "takes 8.6 GB",
        ),
        (torch.OutOfMemoryError("HIP is full"), "to learn"),
    ],
)
def test_missing_memory_says_how_much_was_asked_for(error: Exception, said: str) -> None:
    with pytest.raises(OutOfMemory, match=said), memory.oom_as_problem("learn", "--batch"):
        raise error


def test_missing_memory_while_learning_names_need_and_flag(
    library: Library, photo: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> None:
        raise torch.OutOfMemoryError("Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(training, "optimizer_step", full)
    done = runner.invoke(app, ["learn", str(photo), "--base", base, *FAST, "3", "--name", "alice"])
    assert done.exit_code == 11
    needs = ("takes 20.00 GiB", "with --batch 2 takes about", "with --memory low 0")
    for said in (*needs, "next: add --batch 1", "nothing was published"):
        assert said in done.stderr, done.stderr
    assert unfinished.names(library.root) == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--resume"], 3, "no learning was stopped"),
        (["--resume", "--name", "bob"], 3, "no learning of 'bob' was stopped"),
        (["--resume", "--seed", "3"], 2, "so it takes no --seed"),
        (["p.png", "--resume"], 2, "so it takes no photo"),
        (["--name", "x"], 2, "Missing argument 'photo'"),
        (["--name", "x", "p.png", "--preview-every", "0"], 2, "--preview-every"),
    ],
)
def test_resuming_what_is_not_there(words: list[str], code: int, said: str) -> None:
    done = runner.invoke(app, ["learn", *words])
    assert done.exit_code == code
    assert said in done.stderr


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"photo": 1}', b"[" * 100_000])
def test_an_order_that_cannot_be_read_is_told(library: Library, data: bytes) -> None:
    with unfinished.locked_run(library.root, "alice") as folder:
        (folder / "x.checkpoint").touch()
        unfinished.keep_options(folder, data)
    done = runner.invoke(app, ["learn", "--resume"])
    assert done.exit_code == 5
    assert "pmagic rm alice" in done.stderr


def test_what_is_kept_is_absolute_and_names_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept = resuming.LearnArgs(photos=("a.png",), mask="m.png").on("sd14")
    assert (kept.photos, kept.mask, kept.base) == ([str(tmp_path / "a.png")], str(tmp_path / "m.png"), "sd14")
    with pytest.raises(NotFound):
        resuming.recall(tmp_path, None, resuming.LearnArgs())
    with pytest.raises(UsageError, match="--learning-rate"):
        resuming.recall(tmp_path, None, resuming.LearnArgs(learning_rate=1.0))


@pytest.fixture
def stopped(library: Library, photo: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """A learning of alice that was killed with a checkpoint; its base's folder."""
    left = [4]
    real = training.optimizer_step

    class Killed(BaseException):
        pass

    def dying(*given: object) -> object:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(training, "SAVE_EVERY", 1)
        patch.setattr(training, "optimizer_step", dying)
        with pytest.raises(Killed):
            runner.invoke(app, ["learn", str(photo), "--base", str(own_folder), *FAST, "5", "--name", "alice"])
    return own_folder


def resume() -> Result:
    return runner.invoke(app, ["learn", "--resume"])


def begin_anew(done: Result, library: Library) -> None:
    """Runs the command that the message names."""
    (command,) = re.findall(r"`pmagic (learn [^`]+)`", done.stderr)
    assert runner.invoke(app, shlex.split(command)).exit_code == 0, command
    assert library.versions("alice") == [1]
    assert unfinished.names(library.root) == []


def test_resuming_after_an_update_names_the_values_that_changed(
    stopped: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = replace(recipes.RECIPES["reference"](), learning_rate=3e-5, weight_decay=0.02)
    monkeypatch.setattr(recipes, "RECIPES", {"reference": lambda: newer})
    version = pmagic.__version__
    monkeypatch.setattr(pmagic, "__version__", "99.0")
    done = resume()
    assert done.exit_code == 6
    assert "learning_rate was 0.0001 and is 3e-05; weight_decay was 0.01 and is 0.02" in done.stderr
    assert "the photo" not in done.stderr and "the base" not in done.stderr
    assert f"next: continue with pmagic {version}, which it was started with, or start over with" in done.stderr
    assert "kept: what was learned so far" in done.stderr
    begin_anew(done, library)


def test_resuming_with_another_file_of_the_base_names_it(stopped: Path, library: Library) -> None:
    with (stopped / "pmagic.toml").open("a") as file:
        file.write("[learn]\ntokens = 3\n")
    done = resume()
    assert done.exit_code == 6 and "tokens was 4 and is 3" in done.stderr
    assert "put the values in the base's pmagic.toml back as before" in done.stderr
    begin_anew(done, library)


def test_resuming_with_another_photo_names_it(stopped: Path, photo: Path, library: Library) -> None:
    before = photo.read_bytes()
    tiny.photo(5).save(photo)
    done = resume()
    assert done.exit_code == 6 and "started with another input: the photo\n" in done.stderr
    assert "put the photo back as before, or start over with" in done.stderr
    photo.write_bytes(before)
    assert resume().stdout == "alice@1\n"


def test_resuming_what_an_earlier_version_left_says_all_that_may_be(
    stopped: Path, photo: Path, library: Library
) -> None:
    (library.root / unfinished.FOLDER / "alice" / "inputs.json").unlink()
    tiny.photo(5).save(photo)
    done = resume()
    assert (
        done.exit_code == 6 and "the photo, the base, its stages or pmagic's default values have changed" in done.stderr
    )
    begin_anew(done, library)


def test_a_command_asks_for_the_same_once_more() -> None:
    asked = resuming.LearnArgs(photos=("a b.png",), word="cat", learning_rate=0.5, compile=True, stages="1:2")
    words = "pmagic learn 'a b.png' --name tom --class cat --learning-rate 0.5 --stages 1:2 --compile"
    assert resuming.command("tom", asked) == words


@pytest.mark.parametrize("resume", [True, False])
def test_killed_between_saving_and_clearing_it_is_kept_once(
    library: Library, photo: Path, base: str, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    class Killed(BaseException):
        pass

    def killed(*given: object) -> None:
        raise Killed

    words = ["learn", str(photo), "--base", base, *FAST, "3", "--name", "bob"]
    with monkeypatch.context() as patch:
        patch.setattr(unfinished, "clear", killed)
        with pytest.raises(Killed):
            runner.invoke(app, words, catch_exceptions=False)
    assert library.versions("bob") == [1] and unfinished.resumable_names(library.root) == ["bob"]
    done = runner.invoke(app, ["learn", "--resume"] if resume else words)
    assert done.stdout == "bob@1\n", done.stderr
    assert library.versions("bob") == [1] and unfinished.names(library.root) == []
    assert runner.invoke(app, words).stdout == "bob@2\n"  # learned again from the start, with the same options


def test_a_disk_that_turns_read_only_while_learning_ends_in_one_message(
    library: Library, photo: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From some step on, nothing can be written or removed."""
    words = ["learn", str(photo), "--base", base, *FAST, "3", "--stages", "300:700", "--name"]
    monkeypatch.setattr(training, "SAVE_EVERY", 1)
    step, tried = 1, 0
    while True:
        name = f"alice{step}"
        with monkeypatch.context() as patch:
            disk = FaultyDisk(patch, step, OSError(errno.EROFS, os.strerror(errno.EROFS)), once=False)
            done = runner.invoke(app, [*words, name])
        if disk.steps < step:
            break
        step += 9
        if done.exit_code == 0:  # only the removal of an empty folder failed
            assert library.versions(name) == [1]
            continue
        tried += 1
        assert done.exit_code == 8 and done.stderr.count("error: ") == 1, (step, done.stderr)
        assert "the disk is read-only" in done.stderr, (step, done.stderr)
        if "nothing that was stored before has changed" in done.stderr:
            assert library.versions(name) == [], step
    assert tried > 5 and done.exit_code == 0


def test_a_learning_that_runs_is_not_taken_for_a_stopped_one(tmp_path: Path) -> None:
    for name in ("alice", "tom"):
        with pytest.raises(KeyboardInterrupt), unfinished.locked_run(tmp_path, name) as folder:
            resuming.keep(folder, resuming.LearnArgs(photos=(f"{name}.png",)))
            raise KeyboardInterrupt
    with pytest.raises(UsageError, match="several learnings were stopped: alice, tom"):
        resuming.recall(tmp_path, None, resuming.LearnArgs())
    with unfinished.locked_run(tmp_path, "alice"):
        assert resuming.recall(tmp_path, None, resuming.LearnArgs())[0] == "tom"
