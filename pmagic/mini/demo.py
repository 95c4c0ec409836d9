"""The demonstration: learn a shipped portrait with the program itself, render four prompts, put them on one sheet.

python -m pmagic.mini.demo FOLDER
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

from pmagic.mini.sheet import contact_sheet

PORTRAIT = Path(__file__).parent / "portraits" / "alice.png"
PROMPTS = ("as a cowboy", "wearing a santa hat in the snow", "as an astronaut in space", "an oil painting of {}")
EACH = 2


def _pmagic(home: Path, *words: str) -> dict:
    """Run the program in its own home; its answer as JSON."""
    print("$ pmagic", *(f'"{w}"' if " " in w else w for w in words), flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "pmagic", *words, "--json"],
        stdout=subprocess.PIPE, env={**os.environ, "PMAGIC_HOME": str(home)},
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout)


def demonstrate(folder: Path) -> None:
    home = folder / "home"
    start = time.monotonic()
    _pmagic(home, "learn", str(PORTRAIT), "--name", "alice", "--base", "mini")
    learned = time.monotonic() - start
    rows = [("the portrait that was learned", [Image.open(PORTRAIT)])]
    for prompt in PROMPTS:
        answer = _pmagic(home, "render", "alice", prompt, "-n", str(EACH), "--out", str(folder / "pictures"))
        rows.append((prompt, [Image.open(made["file"]) for made in answer["pictures"]]))
    rendered = time.monotonic() - start - learned
    sheet = folder / "contact-sheet.png"
    contact_sheet(sheet, rows)
    print(f"learned in {learned:.0f} s, {EACH * len(PROMPTS)} pictures in {rendered:.0f} s; look at {sheet}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    demonstrate(parser.parse_args().folder)
