"""The options that all drawing commands share, and how they write and print their pictures."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pmagic import atomic_io, settings
from pmagic.cli import names, prompt_files, terminal
from pmagic.cli.console import Console
from pmagic.cli.options import number, parse_seed
from pmagic.cli.stopping import StopAtStep, Stopped
from pmagic.errors import UsageError
from pmagic.serving.outcomes import ServerLost
from pmagic.tasks.drawing import Drawing
from pmagic.tasks.reporting import duration

if TYPE_CHECKING:
    from pmagic.serving.client import RemoteDrawing

Count = Annotated[int, typer.Option("-n", "--count", help="How many pictures of each prompt.")]
Seed = Annotated[
    int,
    typer.Option(
        "--seed", help="A number, or random. Picture k, counted from 0, is drawn with seed + k.", parser=parse_seed
    ),
]
Steps = Annotated[int | None, typer.Option("--steps", help="Sampler steps.")]
Guidance = Annotated[float | None, typer.Option("--guidance", help="How strictly the prompt is followed.")]
Scheduler = Annotated[str | None, typer.Option("--scheduler", help="ddim, dpm++, dpm++-sigma-min, unipc, euler, pndm.")]
Negative = Annotated[str | None, typer.Option("--negative", help="What the pictures should not show.")]
Size = Annotated[str | None, typer.Option("--size", help="WIDTHxHEIGHT or one side, in pixels, multiples of 8.")]
Strength = Annotated[
    float,
    typer.Option(
        "--strength", help="Factor of what a persona changes of the base's weights, for methods with weights."
    ),
]
With = Annotated[
    str | None,
    typer.Option(
        "--with",
        help="An adapter that also reads pictures: ip-adapter, ip-adapter-plus-face, ..., or a safetensors file.",
        autocompletion=names.adapters,
    ),
]
Look = Annotated[list[str] | None, typer.Option("--look", help="A picture that the adapter reads; may be repeated.")]
Scale = Annotated[
    float | None, typer.Option("--scale", help="How much the look counts: 0 nothing, 0.6 the default, 1 in full.")
]
Out = Annotated[
    Path, typer.Option("--out", help="Folder to write to, or one file name that ends in .png, .jpg or .webp.")
]
Format = Annotated[str | None, typer.Option("--format", help="png (without loss, the default), jpeg or webp.")]
Grid = Annotated[
    bool,
    typer.Option("--grid", help="Also write a sheet of all pictures: a row for each prompt, a column for each seed."),
]
Show = Annotated[bool, typer.Option("--show", help="Also show the pictures in the terminal.")]
Enlarge = Annotated[
    int, typer.Option("--enlarge", help="Also write a copy of each picture, so many times as large, for viewing.")
]
BaseMoved = Annotated[
    str | None,
    typer.Option("--base", help="Where the persona's base is now, if it was moved.", autocompletion=names.bases),
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or mps.")]
Dtype = Annotated[str, typer.Option("--dtype", help="Number type: auto, float32, bfloat16, ...")]
Memory = Annotated[
    str,
    typer.Option("--memory", help="auto: as many pictures at once as fit into memory; normal: 8; low: one by one."),
]
Exact = Annotated[
    bool,
    typer.Option(
        "--exact",
        help="Draw one by one: a picture has the same bytes alone or among others. It takes 1.1 to 1.9 times as long.",
    ),
]

_MAX_ENLARGE = 16
ENDINGS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where and how pictures are written. Raises UsageError for invalid values."""

    out: Path
    kind: str | None = None
    grid: bool = False
    show: bool = False
    enlarge: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.enlarge <= _MAX_ENLARGE:
            raise UsageError(f"--enlarge must be 1 to {_MAX_ENLARGE}, not {self.enlarge}", "4 is good for viewing")
        parse_out(self.out, self.kind)


def draw(
    console: Console, output: Output, prepare: "Callable[..., Drawing | RemoteDrawing]", file_names: Sequence[str]
) -> None:
    """Draws the pictures, writes them and prints their paths.

    prepare: `tasks.drawing.prepare` without its `before_opening`. file_names: one for each scene, without ending.
    Raises what the task raises, StorageFailed, and Stopped, which names the finished pictures.
    """
    folder, file_name, ending = parse_out(output.out, output.kind)

    def make_folder() -> None:
        with atomic_io.storing(f"pictures in {folder}"):
            atomic_io.make_folder(folder)  # before the work: a folder that cannot be written costs no time

    task = prepare(before_opening=make_folder)
    total = task.total
    targets = [folder / (file_name or f"{each}{ending}") for each in file_names]
    title = task.scenes[0].title if len(task.scenes) == 1 else f"{len(task.scenes)} prompts"
    console.say(f"drawing {total} of {task.who} on {task.where}: {title}")
    start = time.monotonic()
    files = _write_pictures(console, task, targets)
    console.say(f"{total} picture{'s' * (total > 1)} in {duration(time.monotonic() - start)}")
    paths = [each["file"] for each in files]
    _warn_of_empty_places(console, files)
    document = {
        **task.metadata,
        "prompt": task.scenes[0].title,
        **task.scenes[0].metadata,
        "cut": task.cut[0],
        "pictures": files,
    }
    if len(task.scenes) > 1:
        document |= {"prompt": [each.title for each in task.scenes], "cut": task.cut}
    if output.grid:
        target = folder / f"{slug(task.who.replace('@', '-'))}-grid{ending}"
        rows, heads = [each.title for each in task.scenes], [f"seed {each}" for each in task.options.seeds]
        document["grid"] = str(prompt_files.write_grid(paths, rows, heads, target, {**task.metadata, "kind": "grid"}))
        paths.append(document["grid"])
    if output.enlarge > 1:
        document["enlarged"] = [prompt_files.write_enlarged(each["file"], output.enlarge) for each in files]
        paths += document["enlarged"]
    if output.show:
        terminal.show_pictures(console, paths)
    console.result(paths, {**document, "warnings": console.warnings})


def _write_pictures(console: Console, task: "Drawing | RemoteDrawing", targets: Sequence[Path]) -> list[dict[str, Any]]:
    """Draws and writes one picture after another: a stop keeps the finished ones. targets: one path for each scene."""
    from pmagic import pictures

    files: list[dict[str, Any]] = []
    try:
        for picture in task.pictures(StopAtStep(console)):
            path = pictures.write_picture(picture.image, targets[picture.number], picture.metadata)
            files.append({"file": str(path), "seed": picture.seed, "prompt": task.scenes[picture.number].title})
            if picture.faces is not None:
                files[-1]["faces"] = picture.faces
                counts = ", ".join(f"{who} {count}" for who, count in picture.faces.items())
                console.say(f"{path}: faces in each place: {counts}")
    except (KeyboardInterrupt, ServerLost) as stop:
        scene, k = task.scenes[len(files) // task.options.count], len(files) % task.options.count
        rest = f"--seed {task.options.seed + k} -n {task.options.count - k}"
        if len(task.scenes) > 1:
            rest += f" for {scene.title!r}, and then with the prompts after it"
        lost = isinstance(stop, ServerLost)
        kind, what = (ServerLost, str(stop)) if lost else (Stopped, "stopped")
        raise kind(
            f"{what} after {len(files)} of {task.total} pictures",
            f"to draw the rest, run the same command with {rest}",
            kept=", ".join(each["file"] for each in files) or "no picture was finished",
        ) from stop
    return files


def parse_out(out: Path, kind: str | None) -> tuple[Path, str, str]:
    """The folder, the file name ("" if --out is a folder) and the ending that --out and --format give."""
    from pmagic import pictures

    if kind is not None and kind not in ENDINGS:
        raise UsageError(f"there is no format {kind!r}", f"choose one of: {', '.join(ENDINGS)}")
    ending = out.suffix.lower()
    if ending in pictures.ENDINGS and not out.is_dir():
        if kind not in (None, pictures.ENDINGS[ending]):
            raise UsageError(f"--out {out} has another ending than --format {kind}", "leave one of them out")
        return out.parent, out.name, out.suffix
    if ending in (".gif", ".tif", ".tiff", ".bmp", ".avif") or (out.exists() and not out.is_dir()):
        raise UsageError(
            f"--out cannot be {out}: pictures are PNG, JPEG or WEBP",
            "give a folder, or a name that ends in .png, .jpg or .webp",
        )
    return out, "", ENDINGS[kind or settings.config().format]


def parse_size(text: str | None) -> tuple[int, int] | None:
    """`512x768` -> (512, 768), `512` -> (512, 512). The render settings check whether it can be drawn."""
    if text is None:
        return None
    sides = [number(side) for side in text.lower().replace("×", "x").split("x")]
    width, height = sides[0], sides[-1]
    if len(sides) > 2 or width is None or height is None:
        raise UsageError(f"--size cannot be {text[:80]!r}", "write it as WIDTHxHEIGHT, for example 512x768")
    return width, height


def slug(text: str, otherwise: str = "portrait") -> str:
    """A text as part of a file name: letters, digits and dashes."""
    plain = re.sub(r"[^\w]+", "-", text, flags=re.UNICODE).strip("-").lower()
    return plain.encode()[:60].decode(errors="ignore").rstrip("-") or otherwise


def _warn_of_empty_places(console: Console, files: Sequence[Mapping[str, Any]]) -> None:
    for who in files[0].get("faces", ()):
        empty = [each["file"] for each in files if not each["faces"][who]]
        if empty:
            console.warn(
                f"no face was found where {who} should be in {', '.join(empty)}: try other seeds or a wider --size, or "
                "draw one person after the other into a --background"
            )
