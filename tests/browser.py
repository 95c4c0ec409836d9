"""Opens a page in a headless browser and returns it as it is after its scripts, where this machine has a browser."""

import shutil
import subprocess
from pathlib import Path

import pytest

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
needed = pytest.mark.skipif(PROGRAM is None, reason="needs a Chromium")


def shown(page: Path, *flags: str) -> str:
    """The page's elements as text. Its profile goes beside it."""
    assert PROGRAM is not None
    command = [PROGRAM, *FLAGS, *flags, f"--user-data-dir={page.with_name('profile')}", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
