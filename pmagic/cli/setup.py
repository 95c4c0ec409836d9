"""`pmagic setup`: looks at the machine, asks what pmagic is for, and downloads everything that this needs."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmagic import settings
from pmagic.cli import names
from pmagic.cli.console import Console, table
from pmagic.cli.options import AsJson, Quiet
from pmagic.errors import StorageFailed, UsageError

if TYPE_CHECKING:
    from pmagic.bases.model_spec import ModelSpec

PURPOSES = {"photos": "people, animals and things in photographs", "drawings": "drawn people, to try pmagic out"}
PHOTO_BASE, DRAWN_BASE = "sd14", "mini"
# GPU memory in bytes that learning takes on Stable Diffusion 1.x, by recipe: the peaks of
# `python -m tests.bench whole --shape sd14`, as in docs/performance.md, plus some for the system.
LEARNING_TAKES = {"paper": 7.5e9, "reference": 5.3e9}


@dataclass(frozen=True)
class Item:
    """One thing to download. size in bytes, roughly; None where only the hub can say."""

    name: str  # as `pmagic models pull` takes it
    use: str
    size: float | None
    licence: str
    here: bool


def setup(
    purpose: Annotated[str | None, typer.Option("--for", help="photos or drawings; asks if it is missing.")] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="sd14, sd15, dreamlike or a hub id.", autocompletion=names.bases)
    ] = None,
    commercial: Annotated[
        bool, typer.Option("--commercial", help="Leave out the face pack, which forbids commercial use.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be downloaded; no network.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Download all that you need at once: base, CLIP, CLIPSeg and face pack. Sizes and licences are shown first.

    \b
    pmagic setup
    pmagic setup --for photos --dry-run
    pmagic setup --for photos --base sd15 --yes
    """
    console = Console(quiet=quiet, as_json=as_json)
    machine = _machine()
    console.say_always("this machine: " + ", ".join(machine))
    purpose = _purpose(purpose if base is None or purpose is not None else "photos")
    spec = _resolve_spec(base or (PHOTO_BASE if purpose == "photos" else DRAWN_BASE))
    items = _items(spec, faces=not commercial)
    missing = [each for each in items if not each.here]
    next_command = _next(spec, "reference" if commercial and _lacks_faces(spec) else "paper")
    document = {
        "machine": machine, "base": spec.name, "items": [vars(each) for each in items], "next": next_command,
    }  # fmt: skip
    console.say_always("\n".join(_lines(spec, items)))
    if missing and not dry_run:
        _require_space(missing)
        _ask(missing, yes)
        _pull(console, missing)
    console.say_always(f"{'after the download' if missing and dry_run else 'all of it is here'}; next:")
    console.result([next_command], document)


def _machine() -> list[str]:
    """GPU, free memory and free disk of this machine, each as a short text."""
    import torch

    from pmagic.bases import memory_estimate

    parts = []
    if torch.cuda.is_available():
        whole = torch.cuda.mem_get_info()[1]
        parts.append(f"{torch.cuda.get_device_name()} with {whole / 1e9:.1f} GB")
    elif torch.backends.mps.is_available():
        parts.append("an Apple GPU (mps)")
    else:
        parts.append("no GPU that torch can use")
    free = memory_estimate.memory_free()
    if free is not None:
        parts.append(f"{free / 1e9:.1f} GB of memory free")
    return [*parts, f"{_disk_free() / 1e9:.1f} GB of disk free"]


def _disk_free() -> int:
    folder = settings.models_dir()
    return shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free


def _purpose(purpose: str | None) -> str:
    if purpose in PURPOSES:
        return purpose
    if purpose is not None:
        raise UsageError(f"--for cannot be {purpose[:80]!r}", f"choose one of: {', '.join(PURPOSES)}")
    if not _at_keyboard():
        raise UsageError("--for is missing, and there is no keyboard to ask at", "add --for photos")
    for number, (name, text) in enumerate(PURPOSES.items(), start=1):
        print(f"  {number}  {name}: {text}", file=sys.stderr)
    answer = typer.prompt("what do you want to draw? 1 or 2", default="1", err=True).strip()
    return _purpose(dict(zip("12", PURPOSES, strict=True)).get(answer, answer))


def _at_keyboard() -> bool:
    """Whether somebody can answer a question."""
    return sys.stdin.isatty()


def _resolve_spec(name: str) -> "ModelSpec":
    from pmagic.bases import model_spec

    return model_spec.resolve(name)


def _items(spec: "ModelSpec", *, faces: bool) -> list[Item]:
    """The downloads that learning a face on this base needs. A base with its own vision models needs only itself."""
    from pmagic.bases import fetching

    items = []
    if spec.repo is not None:
        size = None if spec.size_gb is None else spec.size_gb * 1e9
        items.append(Item(spec.name, "draws the pictures", size, spec.licence, spec.folder is not None))
    models = [
        (spec.clip, "describes the photo (CLIP)"),
        (spec.clipseg, "finds the person in the photo (CLIPSeg)"),
        *([(spec.faces, "finds and compares faces")] if faces else []),
    ]
    sizes = {**fetching.HUB_OBSERVERS, **fetching.PACKS}
    for location, use in models:
        name = location if isinstance(location, str) else location.name.replace("--", "/", 1)
        if name in sizes:
            items.append(Item(name, use, sizes[name], fetching.LICENCES[name], isinstance(location, Path)))
    return items


def _lines(spec: "ModelSpec", items: Sequence[Item]) -> list[str]:
    if not items:
        return [f"the base {spec.name} is shipped with pmagic: there is nothing to download"]
    rows = [
        (each.name, "here" if each.here else _gigabytes(each.size), each.use, each.licence.partition(" (")[0])
        for each in items
    ]
    known = sum(each.size or 0 for each in items if not each.here)
    lines = [*table(rows, ("MODEL", "SIZE", "USE", "LICENCE")), f"to download: {known / 1e9:.1f} GB"]
    if any(each.size is None for each in items):
        lines[-1] += f", and the base {spec.name}, whose size only the hub knows"
    return [*lines, *_memory_line()]


def _memory_line() -> list[str]:
    """Whether the GPU has enough memory to learn on Stable Diffusion 1.x."""
    import torch

    if not torch.cuda.is_available():
        return ["without a GPU that torch can use, learning from a photograph takes hours"]
    whole = torch.cuda.mem_get_info()[1]
    takes = f"learning takes about {LEARNING_TAKES['paper'] / 1e9:.1f} GB of GPU memory"
    if whole >= LEARNING_TAKES["paper"]:
        return [f"{takes}: this GPU has enough"]
    if whole >= LEARNING_TAKES["reference"]:
        return [f"{takes}, more than this GPU has; pmagic then keeps less and computes more again, more slowly"]
    return [f"{takes}, this GPU has {whole / 1e9:.1f}: learn with --memory low, or with --device cpu"]


def _gigabytes(size: float | None) -> str:
    return "?" if size is None else f"{size / 1e9:.1f} GB"


def _require_space(missing: Sequence[Item]) -> None:
    size, free = sum(each.size or 0 for each in missing), _disk_free()
    if size > free:
        raise StorageFailed(
            f"the download takes {size / 1e9:.1f} GB, and {settings.models_dir()} has {free / 1e9:.1f} GB free",
            "free some space, or set PMAGIC_HOME to a folder on another disk",
            kept="nothing was downloaded",
        )


def _ask(missing: Sequence[Item], yes: bool) -> None:
    """Returns only if the user agrees to the download and its licences."""
    if yes:
        return
    names_of = ", ".join(each.name for each in missing)
    if not _at_keyboard():
        raise UsageError(f"{names_of}: pmagic downloads only with your consent", "add --yes, or --dry-run")
    if not typer.confirm("download them under these licences?", err=True):
        raise typer.Exit(0)


def _pull(console: Console, missing: Sequence[Item]) -> None:
    from pmagic.bases import fetching

    for each in missing:
        for plan in fetching.plan_downloads(each.name):
            console.say_always(f"downloading {plan.repo}, {plan.size / 1e9:.2f} GB, to {plan.place}")
            fetching.fetch(plan, show=console.talks)


def _lacks_faces(spec: "ModelSpec") -> bool:
    return isinstance(spec.faces, str)


def _next(spec: "ModelSpec", recipe: str) -> str:
    """The exact command to type next."""
    photo = "alice.png" if spec.repo is None else "alice.jpg"
    options = "" if spec.name == PHOTO_BASE else f" --base {spec.name}"
    options += "" if recipe == "paper" else f" --recipe {recipe}"
    command = f"pmagic sample && pmagic learn {photo}" if spec.repo is None else f"pmagic learn {photo}"
    return f"{command} --name alice{options}"
