"""What every command that draws has in common: its options, their checks, the drawing itself, and what is written."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pmagic.cli import choosing
from pmagic.cli.console import Console, duration, hush_libraries
from pmagic.cli.learn import check_seed
from pmagic.cli.stopping import Stopped, stop_at_step
from pmagic.errors import Incompatible, NotFound, OutOfMemory, UsageProblem
from pmagic.library import durable
from pmagic.library.naming import Address

if TYPE_CHECKING:
    from PIL import Image

    from pmagic.bases.card import Card
    from pmagic.engine.localising import Edit
    from pmagic.engine.recipes import RenderSettings
    from pmagic.engine.regions import Box
    from pmagic.persona import Persona

Count = Annotated[int, typer.Option("-n", "--count", help="How many pictures.")]
Seed = Annotated[int, typer.Option("--seed", help="Picture k, counted from 0, is drawn with seed + k.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Sampler steps.")]
Guidance = Annotated[float | None, typer.Option("--guidance", help="How strictly the prompt is followed.")]
Scheduler = Annotated[str | None, typer.Option("--scheduler", help="ddim, dpm++, unipc, euler or pndm.")]
Negative = Annotated[str | None, typer.Option("--negative", help="What the pictures should not show.")]
Size = Annotated[str | None, typer.Option("--size", help="WIDTHxHEIGHT or one side, in pixels, multiples of 8.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write to, or one file name that ends in .png.")]
BaseMoved = Annotated[str | None, typer.Option("--base", help="Where the persona's base is now, if it was moved.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or mps.")]
Dtype = Annotated[str, typer.Option("--dtype", help="Number type: auto, float32, bfloat16, ...")]
Memory = Annotated[
    str, typer.Option("--memory", help="auto or low: pictures one by one; normal: four at once, faster.")
]

AT_ONCE = 4  # pictures, with --memory normal
_MAX_PICTURES = 10_000


@dataclass(frozen=True)
class Order:
    """How pictures are asked for, whatever they show. Raises UsageProblem for what can be seen to be wrong."""

    count: int
    seed: int
    steps: int | None
    guidance: float | None
    scheduler: str | None
    negative: str | None
    size: str | None
    out: Path
    base: str | None
    device: str | None
    dtype: str
    memory: str

    def __post_init__(self) -> None:
        if not 1 <= self.count <= _MAX_PICTURES:
            raise UsageProblem(f"-n must be 1 to {_MAX_PICTURES}, not {self.count}", "give for example -n 4")
        check_seed(self.seed, self.count)
        choosing.check_memory(self.memory)
        parse_size(self.size)
        parse_out(self.out)

    def settings(self, persona: "Persona", card: "Card") -> "RenderSettings":
        """Under what is asked for, the usual way to draw this persona on this base."""
        from pmagic.engine import recipes

        return recipes.render_settings_for(
            str(persona.settings["recipe"]),
            card.defaults,
            steps=self.steps,
            guidance=self.guidance,
            scheduler=self.scheduler,
            negative=self.negative,
            size=parse_size(self.size),
            batch=AT_ONCE if self.memory == "normal" else None,
        )


@dataclass(frozen=True)
class Sketch:
    """What is to be drawn. cast: by the name in the prompt's braces. shown: the prompt as it is told to people."""

    cast: Mapping[str, tuple[Address, "Persona"]]
    prompt: str
    shown: str
    file_name: str  # without ending
    regions: "Mapping[str, Box]"
    edit: "Edit | None"
    story: Mapping[str, object]  # what is told of the picture besides the usual

    @property
    def who(self) -> str:
        return ", ".join(str(address) for address, _ in self.cast.values())


def draw(console: Console, order: Order, card: "Card", how: "RenderSettings", sketch: Sketch) -> None:
    """Draws, writes and tells. Raises what the engine raises, StorageFailed, and Stopped with what was finished."""
    from pmagic.engine import prompts

    hush_libraries()
    tokens = {name: int(persona.settings["tokens"]) for name, (_, persona) in sketch.cast.items()}
    placed = prompts.check_names(prompts.load_tokenizer(card.folder), sketch.prompt, tokens)
    if placed.cut:
        console.warn(f"the prompt is too long; the base does not read: {placed.cut!r}")
    folder, file_name = parse_out(order.out)
    with durable.storing(f"pictures in {folder}"):
        durable.make_folder(folder)  # now, or a picture would be drawn that has no place

    from pmagic.bases import loading
    from pmagic.engine import rendering

    base = loading.load(card, device=choosing.device(order.device), dtype=order.dtype)
    for address, persona in sketch.cast.values():
        if base.fingerprint != persona.fingerprint:
            raise Incompatible(
                f"{address} was learned on {persona.base}, and the base in {card.folder} has other weights",
                "restore that base, or learn the persona again",
            )
    console.say(
        f"drawing {order.count} of {sketch.who} on {card.name} ({base.device}, {base.computes_in}): {sketch.shown}"
    )
    size = list(how.size or (base.size,) * 2)  # that is drawn: a background keeps its own
    story = {**_story(sketch, card, how), "prompt": sketch.shown, "size": size, **sketch.story}
    cast = {name: persona for name, (_, persona) in sketch.cast.items()}
    draw_with = partial(rendering.compose, base, cast, sketch.prompt, regions=sketch.regions, edit=sketch.edit)
    start = time.monotonic()
    seeds = [order.seed + k for k in range(order.count)]
    files = _draw(console, seeds, how, draw_with, story, folder / (file_name or f"{sketch.file_name}.png"))
    console.say(f"{order.count} picture{'s' * (order.count > 1)} in {duration(time.monotonic() - start)}")
    document = {**story, "cut": placed.cut, "pictures": files, "warnings": console.warnings}
    console.result([each["file"] for each in files], document)


def base_of(cast: Sequence[tuple[Address, "Persona"]], moved_to: str | None) -> "Card":
    """The base that all of them were learned on, its weights on this machine.

    Raises Incompatible for personas of two bases, NotFound, WeightsMissing.
    """
    from pmagic.bases import card as cards

    first, persona = cast[0]
    for address, other in cast[1:]:
        if other.fingerprint != persona.fingerprint:
            weights = " with other weights" if other.base == persona.base else ""
            raise Incompatible(
                f"{first} was learned on {persona.base}, {address} on {other.base}{weights}",
                "personas in one picture must be of one base: learn one of them again on the other's",
            )
    try:
        return cards.require_weights(cards.find(moved_to or persona.base))
    except NotFound as problem:
        if moved_to is not None:
            raise
        raise NotFound(
            f"the base that it was learned on is gone: {persona.base}", "say where it is now with --base"
        ) from problem


def check_text(prompt: str) -> None:
    """Raises UsageProblem for a prompt that is not text."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise UsageProblem("the prompt is not valid text", "check the terminal's encoding") from error


def parse_out(out: Path) -> tuple[Path, str]:
    """--out as a folder and a file name, the name empty where only a folder is given."""
    kind = out.suffix.lower()
    if kind == ".png" and not out.is_dir():
        return out.parent, out.name
    if kind in (".jpg", ".jpeg", ".webp", ".gif", ".tiff", ".bmp") or (out.exists() and not out.is_dir()):
        raise UsageProblem(f"--out cannot be {out}: pictures are PNG", "give a folder, or a name that ends in .png")
    return out, ""


def parse_size(text: str | None) -> tuple[int, int] | None:
    """`512x768` -> (512, 768), `512` -> (512, 512); whether they can be drawn is the settings' to say."""
    if text is None:
        return None
    sides = text.lower().replace("×", "x").split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdecimal() for side in sides):
        raise UsageProblem(f"--size cannot be {text!r}", "write it as WIDTHxHEIGHT, for example 512x768")
    return int(sides[0]), int(sides[-1])


def slug(text: str, otherwise: str = "portrait") -> str:
    """A text as part of a file name: letters, digits and dashes."""
    plain = re.sub(r"[^\w]+", "-", text, flags=re.UNICODE).strip("-").lower()
    return plain.encode()[:60].decode(errors="ignore").rstrip("-") or otherwise


def _story(sketch: Sketch, card: "Card", how: "RenderSettings") -> dict[str, object]:
    """What goes into every picture besides its prompt, size and seed."""
    local = card.repo is None and card.name == str(card.folder)
    personas = [persona for _, persona in sketch.cast.values()]
    return {
        "persona": sketch.who,
        "word": ", ".join(each.word for each in personas),
        "base": card.folder.name if local else card.name,  # a picture may travel: no path of this machine goes along
        "fingerprint": personas[0].fingerprint,
        "negative": how.negative,
        "steps": how.steps,
        "guidance": how.guidance,
        "scheduler": how.scheduler,
    }


def _draw(
    console: Console,
    seeds: Sequence[int],
    how: "RenderSettings",
    draw_with: Callable[..., "list[Image.Image]"],
    story: Mapping[str, object],
    target: Path,
) -> list[dict[str, Any]]:
    """Draws and writes picture after picture, so that a stop keeps those that are finished."""
    from pmagic import pictures

    files: list[dict[str, Any]] = []
    with stop_at_step() as check, console.progress(f"drawing {story['persona']}") as advance:
        while len(files) < len(seeds):
            now = seeds[len(files) : len(files) + how.batch]

            def on_step(done: int, total: int, now: Sequence[int] = now) -> None:
                done = len(files) * total + len(now) * done
                advance(done, len(seeds) * total, f"{len(files)} of {len(seeds)} pictures")
                check()

            try:
                drawn = draw_with(now, how, on_step=on_step)
            except OutOfMemory as problem:
                if len(now) == 1:
                    raise
                how = replace(how, batch=1)
                console.warn(f"{problem.what}, {len(now)} pictures at once; going on one by one")
                continue
            except KeyboardInterrupt as stop:
                raise Stopped(
                    f"stopped after {len(files)} of {len(seeds)} pictures",
                    f"for the rest run the same command with --seed {now[0]} -n {len(seeds) - len(files)}",
                    kept=", ".join(each["file"] for each in files) or "no picture was finished",
                ) from stop
            for seed, picture in zip(now, drawn, strict=True):
                path = pictures.write_picture(picture, target, {**story, "seed": seed})
                files.append({"file": str(path), "seed": seed})
    return files
