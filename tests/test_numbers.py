"""Numbers: counts, steps, guidance, sizes, seeds and bounds that cannot be; NaN and overflow while learning."""

from collections.abc import Callable
from pathlib import Path

# ruff: noqa: F811 - the arguments of a test have the names of its fixtures
import numpy as np
import pytest
import torch
from test_cli_learning import alice, base, never_drawn, never_learned, photo  # noqa: F401 - fixtures
from test_cli_resuming import FAST
from tiny import tiny_folders  # noqa: F401 - a fixture
from typer.testing import CliRunner

from pmagic.cli import drawing, options
from pmagic.cli.app import app
from pmagic.engine import checkpoint, training
from pmagic.engine.recipes import settings_for
from pmagic.errors import NumericFailure, UsageError
from pmagic.library.store import Library
from pmagic.persona import Persona

Make = Callable[..., Persona]
runner = CliRunner()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--name", "x", "--iterations", "0"], 2, "iterations must be at least 1"),
        (["--name", "x", "--batch", "0"], 2, "batch must be at least 1"),
        (["--name", "x", "--learning-rate", "nan"], 2, "learning rate"),
        (["--name", "x", "--stages", "800:400"], 2, "0 <= low < high <= 1000"),
        (["--name", "x", "--stages", "half"], 2, "--stages cannot be 'half'"),
        (["--name", "x", "--seed", "-1"], 2, "--seed must be 0 or more"),
        (["--name", "x", "--iterations", "few"], 2, "--iterations"),
    ],
)
def test_numbers_that_cannot_be_learned_with_are_one_message(
    library: Library, photo: Path, base: str, words: list[str], code: int, said: str
) -> None:
    never_learned(library, photo, [*words, "--base", base, "--recipe", "reference"], code, said)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["alice", "as a cowboy", "-n", "0"], 2, "-n must be 1 to"),
        (["alice", "as a cowboy", "--steps", "0"], 2, "steps must be from 1"),
        (["alice", "as a cowboy", "--size", "33"], 2, "multiples of 8, not 33"),
        (["alice", "as a cowboy", "--size", "6553600"], 2, "sides are at most 8192 pixels, not 6553600"),
        (["alice", "as a cowboy", "--size", "640000x8"], 2, "sides are at most 8192 pixels, not 640000"),
        (["alice", "as a cowboy", "--size", "32x"], 2, "--size cannot be '32x'"),
        (["alice", "as a cowboy", "--guidance", "nan"], 2, "guidance must be 0 or above"),
        (["alice", "as a cowboy", "--guidance", "-1"], 2, "next: leave it out for the base's usual one"),
        (["alice", "as a cowboy", "--size", "99992"], 2, "next: leave it out for the base's own size"),
        (["alice", "as a cowboy", "--seed", str(2**32 + 5)], 2, "next: give --seed 5, which draws the same"),
        (["alice", "as a cowboy", "--seed", str(2**32 - 1), "-n", "2"], 2, "at most 2^32, not 4294967295 for 2"),
        (["alice", "as a cowboy", "--seed", str(2**33 - 1), "-n", "2"], 2, "next: give for example --seed 1"),
        (["alice", "as a cowboy", "--seed", "9" * 5000], 2, "--seed must be a whole number, or random, not '999"),
        (["alice", "as a cowboy", "--seed", "1.5"], 2, "--seed must be a whole number, or random, not '1.5'"),
    ],
)
def test_numbers_that_cannot_be_drawn_with_are_one_message(
    alice: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, said: str
) -> None:
    never_drawn(tmp_path, monkeypatch, words, code, said)


def test_sizes_and_bounds() -> None:
    assert drawing.parse_size("512x768") == (512, 768)
    assert drawing.parse_size("512") == (512, 512)
    assert drawing.parse_size(None) is None
    assert options.parse_stages("400:800") == (400, 800)
    with pytest.raises(UsageError, match="--stages cannot be '9999"):
        options.parse_stages(f"{'9' * 5000}:800")
    for text in ("", "x", "1x2x3", "-8", "8.5"):
        with pytest.raises(UsageError):
            drawing.parse_size(text)


def test_values_that_are_not_finite_are_never_kept(library: Library, persona: Make) -> None:
    with pytest.raises(NumericFailure, match="image_embedding"):
        library.save("alice", persona(tensors={"image_embedding": np.array([1, np.nan], dtype=np.float32)}))
    assert library.names() == []


def test_nan_stops_with_the_last_good_checkpoint_and_publishes_nothing(
    library: Library, photo: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = training.weighted_sum
    seen: list[int] = []

    def spoilt(context: training.TrainingContext, terms: dict) -> torch.Tensor:
        seen.append(1)
        return real(context, terms) * (float("nan") if len(seen) == 4 else 1.0)

    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    monkeypatch.setattr(training, "weighted_sum", spoilt)
    words = ["learn", str(photo), "--base", base, *FAST, "6", "--name", "alice"]
    done = runner.invoke(app, words)
    assert done.exit_code == 10
    assert "in iteration 4: the loss became nan" in done.stderr
    assert "nothing was published; the last good state is in" in done.stderr
    assert library.names() == []
    assert runner.invoke(app, ["learn", "--resume"]).exit_code == 0  # the spoilt step is not repeated: it goes on


def test_weights_that_overflow_never_replace_a_good_checkpoint(tmp_path: Path) -> None:
    learner = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(learner.parameters())
    learner(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    kept = checkpoint.Checkpoint(tmp_path / "a", "x")
    kept.save(1, {}, learner, optimizer)
    before = (tmp_path / "a").read_bytes()
    with torch.no_grad():
        learner.weight[0, 0] = float("inf")
    with pytest.raises(NumericFailure, match=r"learner\.weight holds NaN or infinity after step 2"):
        kept.save(2, {}, learner, optimizer)
    assert (tmp_path / "a").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"iterations": 0}, "iterations must be at least 1, not 0"),
        ({"learning_rate": 0.0}, "learning rate must be above 0"),
        ({"learning_rate": float("nan")}, "learning rate must be above 0"),
        ({"bounds": (800, 400)}, "0 <= low < high <= 1000"),
        ({"templates": ["a photo"]}, "'a photo' has no {}"),
        ({"kind": "ghost"}, "no kind 'ghost'"),
        ({"iou_low": 0.8, "iou_high": 0.7}, "0 < iou_low < iou_high <= 1, not 0.8, 0.7"),
        ({"probe_iterations": 0}, "probe_iterations must be at least 1"),
        ({"magic": 1}, "no setting 'magic'"),
    ],
)
def test_values_that_cannot_be_are_usage_problems(change: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        settings_for("reference", {}, **change)
    with pytest.raises(UsageError, match=said):
        settings_for("reference", {"learn": change})
