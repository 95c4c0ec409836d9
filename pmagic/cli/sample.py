"""`pmagic sample`: copies the sample pictures that come with pmagic."""

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
    out: Annotated[Path, typer.Option("--out", help="Folder to copy to (default: the current one).")] = Path(),
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Copy the shipped sample pictures: three portraits, a cat, three pictures of one style, a city. All are drawn.

    \b
    pmagic sample
    pmagic sample --out samples
    """
    console = Console(quiet=quiet, as_json=as_json)
    paths = [str(path) for path in copy_samples(out)]
    console.say("next: pmagic learn alice.png --name alice --base mini")
    console.result(paths, {"files": paths})


def copy_samples(folder: Path) -> list[Path]:
    """Copies the samples. Returns their paths, by name. Raises StorageFailed where another file has such a name."""
    samples = sorted((path for name in FOLDERS for path in _list_samples(name)), key=lambda path: path.name)
    for path in samples:
        target = folder / path.name
        if target.exists() and (not target.is_file() or target.read_bytes() != path.read_bytes()):
            raise StorageFailed(
                f"{target} exists and is not the sample of that name",
                "give another folder with --out",
                kept=f"{target} as it is",
            )
    with atomic_io.storing(f"the samples in {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        for path in samples:
            if not (folder / path.name).exists():
                atomic_io.publish_file(path.read_bytes(), folder / path.name)
    return [folder / path.name for path in samples]


def _list_samples(folder: str) -> list[Path]:
    return list(Path(str(files("pmagic"))).joinpath("mini", folder).glob("*.png"))
