"""A few of the kills that `python -m tests.kills 300` does by the hundred."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_killed_at_any_moment_nothing_is_lost() -> None:
    command = [sys.executable, "-m", "tests.kills", "30"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert "killed before the end:" in done.stdout
