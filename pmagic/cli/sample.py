"""`pmagic sample`: copies of the pictures that are shipped for trying pmagic out."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from pmagic import atomic_io
from pmagic.cli.console import Console
from pmagic.cli.options import AsJson, Quiet
from pmagic.errors import StorageFailed

FOLDERS = ("portraits", "examples")  # beside the miniature's weights, drawn by `python -m pmagic.mini.samples`


def sample(
    out: Annotated[Path, typer.Option("--out", help="Folder to copy to; the current one without it.")] = Path(),
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Copy the shipped sample pictures: three portraits, a cat and three pictures of one style. All are drawn.

    \b
    pmagic sample
    pmagic sample --out samples
    """
    console = Console(quiet=quiet, as_json=as_json)
    paths = [str(path) for path in copy_samples(out)]
    console.say("now: pmagic learn alice.png --name alice --base mini")
    console.result(paths, {"files": paths})


def copy_samples(folder: Path) -> list[Path]:
    """The copies, by name. A copy that is there already stays; another file of that name is never overwritten."""
    shipped = sorted((path for name in FOLDERS for path in _shipped(name)), key=lambda path: path.name)
    for path in shipped:
        there = folder / path.name
        if there.exists() and (not there.is_file() or there.read_bytes() != path.read_bytes()):
            raise StorageFailed(
                f"{there} is there already, and is not the sample of that name",
                "give another folder with --out",
                kept=f"{there} as it is",
            )
    with atomic_io.storing(f"the samples in {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        for path in shipped:
            if not (folder / path.name).exists():
                atomic_io.publish_file(path.read_bytes(), folder / path.name)
    return [folder / path.name for path in shipped]


def _shipped(folder: str) -> list[Path]:
    return list(Path(str(files("pmagic"))).joinpath("mini", folder).glob("*.png"))
