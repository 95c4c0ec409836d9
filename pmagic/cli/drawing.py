"""What every command that draws has in common: its options, their checks, the drawing itself, and what is written."""

import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pmagic import settings
from pmagic.cli import choosing, names, scenes, stories, terminal
from pmagic.cli.console import Console, duration, hush_libraries
from pmagic.cli.options import number, parse_seed
from pmagic.cli.stopping import Stopped, stop_at_step
from pmagic.engine.prompts import check_text
from pmagic.errors import Incompatible, NotFound, OutOfMemory, UsageProblem
from pmagic.library import bundle, durable
from pmagic.library.naming import Address

if TYPE_CHECKING:
    from PIL import Image

    from pmagic.bases.card import Card
    from pmagic.engine.localising import Edit
    from pmagic.engine.recipes import RenderSettings
    from pmagic.engine.regions import Box
    from pmagic.persona import Persona

Count = Annotated[int, typer.Option("-n", "--count", help="How many pictures of each prompt.")]
Seed = Annotated[
    int,
    typer.Option(
        "--seed", help="A number, or random. Picture k, counted from 0, is drawn with seed + k.", parser=parse_seed
    ),
]
Steps = Annotated[int | None, typer.Option("--steps", help="Sampler steps.")]
Guidance = Annotated[float | None, typer.Option("--guidance", help="How strictly the prompt is followed.")]
Scheduler = Annotated[str | None, typer.Option("--scheduler", help="ddim, dpm++, unipc, euler or pndm.")]
Negative = Annotated[str | None, typer.Option("--negative", help="What the pictures should not show.")]
Size = Annotated[str | None, typer.Option("--size", help="WIDTHxHEIGHT or one side, in pixels, multiples of 8.")]
Out = Annotated[
    Path, typer.Option("--out", help="Folder to write to, or one file name that ends in .png, .jpg or .webp.")
]
Format = Annotated[str | None, typer.Option("--format", help="png (without loss, the default), jpeg or webp.")]
Grid = Annotated[
    bool, typer.Option("--grid", help="One more picture of all: a row for each prompt, a column for each seed.")
]
Show = Annotated[bool, typer.Option("--show", help="Show the pictures in the terminal as well.")]
BaseMoved = Annotated[
    str | None,
    typer.Option("--base", help="Where the persona's base is now, if it was moved.", autocompletion=names.bases),
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or mps.")]
Dtype = Annotated[str, typer.Option("--dtype", help="Number type: auto, float32, bfloat16, ...")]
Memory = Annotated[
    str, typer.Option("--memory", help="auto or low: pictures one by one; normal: four at once, faster.")
]

Look = Callable[["Image.Image"], Mapping[str, int]]  # how many faces a picture shows in the place of each name

SEEDS = 2**32  # different ones that a picture can have
AT_ONCE = 4  # pictures, with --memory normal
ENDINGS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
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
    kind: str | None = None
    grid: bool = False
    show: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.count <= _MAX_PICTURES:
            raise UsageProblem(f"-n must be 1 to {_MAX_PICTURES}, not {self.count}", "give for example -n 4")
        check_seeds(self.seed, self.count)
        choosing.check_memory(self.memory)
        choosing.check_numbers(self.device, self.dtype)
        check_text(self.negative or "", "--negative")
        parse_size(self.size)
        parse_out(self.out, self.kind)

    def settings(self, personas: "Sequence[Persona]", card: "Card") -> "RenderSettings":
        """Under what is asked for, the usual way to draw these personas on this base.

        Where they were learned by several recipes it is the default recipe's, whoever is named first.
        """
        from pmagic.engine import recipes

        learned_by = {str(persona.settings["recipe"]) for persona in personas}
        return recipes.render_settings_for(
            learned_by.pop() if len(learned_by) == 1 else recipes.DEFAULT,
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
    look: "Look | None" = None  # asked of each picture

    @property
    def who(self) -> str:
        return ", ".join(str(address) for address, _ in self.cast.values())


def draw(console: Console, order: Order, card: "Card", how: "RenderSettings", sketches: Sequence[Sketch]) -> None:
    """Draws, writes and tells. Raises what the engine raises, StorageFailed, and Stopped with what was finished.

    All sketches are of one cast.
    """
    from pmagic.engine import prompts

    first, total = sketches[0], order.count * len(sketches)
    if total > _MAX_PICTURES:
        raise UsageProblem(f"these are {total} pictures, more than {_MAX_PICTURES}", "draw fewer at once")
    hush_libraries()
    tokenizer = prompts.load_tokenizer(card.folder)
    tokens = {name: _tokens(*each) for name, each in first.cast.items()}
    cuts = [prompts.check_names(tokenizer, each.prompt, tokens).cut for each in sketches]
    for cut in filter(None, cuts):
        console.warn(f"the prompt is too long; the base does not read: {cut!r}")
    cut_negative = prompts.unread(tokenizer, how.negative)
    if cut_negative:
        console.warn(f"the negative prompt is too long; the base does not read: {cut_negative!r}")
        cuts = ["; ".join(filter(None, (cut, cut_negative))) for cut in cuts]
    warn_of_instructions(console, [*(each.prompt for each in sketches), how.negative])
    folder, file_name, ending = parse_out(order.out, order.kind)
    with durable.storing(f"pictures in {folder}"):
        durable.make_folder(folder)  # now, or a picture would be drawn that has no place

    from pmagic.bases import loading
    from pmagic.engine import rendering

    base = loading.load(card, device=choosing.device(order.device), dtype=order.dtype)
    for address, persona in first.cast.values():
        if base.fingerprint != persona.fingerprint:
            raise Incompatible(
                f"{address} was learned on {persona.base}, and the base in {card.folder} has other weights",
                "restore that base, or learn the persona again",
            )
    cast = {name: persona for name, (_, persona) in first.cast.items()}
    usual = {
        "persona": first.who,
        "persona_sha256": {str(address): bundle.digest(persona) for address, persona in first.cast.values()},
        **stories.told(base, list(cast.values()), how, order.dtype),
        "size": list(how.size or (base.size,) * 2),  # that is drawn: a background keeps its own
    }
    works = [
        _Work(
            partial(rendering.compose, base, cast, each.prompt, regions=each.regions, edit=each.edit),
            {**usual, "prompt": each.shown, **each.story},
            folder / (file_name or f"{each.file_name}{ending}"),
            each.look,
        )
        for each in sketches
    ]
    about = first.shown if len(works) == 1 else f"{len(works)} prompts"
    console.say(f"drawing {total} of {first.who} on {card.name} ({base.device}, {base.computes_in}): {about}")
    start = time.monotonic()
    files = _draw(console, [order.seed + k for k in range(order.count)], how, works)
    console.say(f"{total} picture{'s' * (total > 1)} in {duration(time.monotonic() - start)}")
    paths = [each["file"] for each in files]
    _warn_of_empty_places(console, files)
    document = {**works[0].story, "cut": cuts[0], "pictures": files}
    if len(works) > 1:
        document |= {"prompt": [each.shown for each in sketches], "cut": cuts}
    if order.grid:
        target = folder / f"{slug(first.who.replace('@', '-'))}-grid{ending}"
        document["grid"] = str(scenes.write_grid(paths, order.count, target, {**usual, "kind": "grid"}))
        paths.append(document["grid"])
    if order.show:
        terminal.show_pictures(console, paths)
    console.result(paths, {**document, "warnings": console.warnings})


def warn_of_instructions(console: Console, texts: Sequence[str]) -> None:
    """Tells once what in the prompts another tool would obey."""
    from pmagic.engine import prompts

    found = list(dict.fromkeys(each for text in texts for each in prompts.instructions(text)))
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        console.warn(
            f"{', '.join(found[:3])}{more}: other tools obey this in a prompt; here it is read as text, weights and all"
        )


def base_of(cast: Sequence[tuple[Address, "Persona"]], moved_to: str | None) -> "Card":
    """The base that all of them were learned on, its weights on this machine.

    Raises Incompatible for personas of two bases, NotFound, WeightsMissing.
    """
    from pmagic.bases import card as cards
    from pmagic.bases import places

    first, persona = cast[0]
    for address, other in cast[1:]:
        if other.fingerprint != persona.fingerprint:
            weights = " with other weights" if other.base == persona.base else ""
            raise Incompatible(
                f"{first} was learned on {persona.base}, {address} on {other.base}{weights}",
                "personas in one picture must be of one base: learn one of them again on the other's",
            )
    if moved_to is not None:
        return cards.require_weights(cards.find(moved_to))
    try:
        found = places.base_of(persona.base, persona.fingerprint)
    except NotFound as problem:
        raise NotFound(
            f"the base that it was learned on is not known here: {persona.base}", "say where it is with --base"
        ) from problem
    return cards.require_weights(found)


def _tokens(address: Address, persona: "Persona") -> int:
    tokens = persona.settings.get("tokens")
    if not isinstance(tokens, int):
        raise Incompatible(f"{address} does not say how many tokens stand for its name", "learn the persona again")
    return tokens


def parse_out(out: Path, kind: str | None) -> tuple[Path, str, str]:
    """--out and --format as a folder, a file name (empty where only a folder is given) and the name's ending."""
    from pmagic import pictures

    if kind is not None and kind not in ENDINGS:
        raise UsageProblem(f"there is no format {kind!r}", f"choose one of: {', '.join(ENDINGS)}")
    ending = out.suffix.lower()
    if ending in pictures.ENDINGS and not out.is_dir():
        if kind not in (None, pictures.ENDINGS[ending]):
            raise UsageProblem(f"--out {out} is not a name of --format {kind}", "leave one of them out")
        return out.parent, out.name, out.suffix
    if ending in (".gif", ".tif", ".tiff", ".bmp", ".avif") or (out.exists() and not out.is_dir()):
        raise UsageProblem(
            f"--out cannot be {out}: pictures are PNG, JPEG or WEBP",
            "give a folder, or a name that ends in .png, .jpg or .webp",
        )
    return out, "", ENDINGS[kind or settings.config().format]


def check_seeds(first: int, count: int) -> None:
    """UsageProblem for seeds that pictures cannot have: torch reads 32 bits of one on a CPU, where noise is drawn."""
    if first < 0 or first + count > SEEDS:
        same = f"give --seed {first % SEEDS}, which draws the same" if first >= SEEDS else "give for example --seed 1"
        raise UsageProblem(
            f"--seed must be 0 or more, and with the number of pictures at most 2^32, not {first} for {count}", same
        )


def parse_size(text: str | None) -> tuple[int, int] | None:
    """`512x768` -> (512, 768), `512` -> (512, 512); whether they can be drawn is the settings' to say."""
    if text is None:
        return None
    sides = [number(side) for side in text.lower().replace("×", "x").split("x")]
    width, height = sides[0], sides[-1]
    if len(sides) > 2 or width is None or height is None:
        raise UsageProblem(f"--size cannot be {text[:80]!r}", "write it as WIDTHxHEIGHT, for example 512x768")
    return width, height


def slug(text: str, otherwise: str = "portrait") -> str:
    """A text as part of a file name: letters, digits and dashes."""
    plain = re.sub(r"[^\w]+", "-", text, flags=re.UNICODE).strip("-").lower()
    return plain.encode()[:60].decode(errors="ignore").rstrip("-") or otherwise


@dataclass(frozen=True)
class _Work:
    """One prompt: what draws it, told seeds and settings; its pictures' story and first name; what looks at each."""

    draw: "Callable[..., list[Image.Image]]"
    story: Mapping[str, object]
    target: Path
    look: Look | None


def _draw(
    console: Console, seeds: Sequence[int], how: "RenderSettings", works: Sequence[_Work]
) -> list[dict[str, Any]]:
    """Draws and writes picture after picture, so that a stop keeps those that are finished."""
    from pmagic import pictures

    files: list[dict[str, Any]] = []
    total = len(seeds) * len(works)
    groups = deque(
        (work, seeds[first : first + how.batch]) for work in works for first in range(0, len(seeds), how.batch)
    )
    with stop_at_step() as check, console.progress(f"drawing {works[0].story['persona']}") as advance:
        while groups:
            work, now = groups.popleft()

            def on_step(done: int, steps: int, count: int = len(now)) -> None:
                advance(len(files) * steps + count * done, total * steps, f"{len(files)} of {total} pictures")
                check()

            try:
                drawn = work.draw(now, how, on_step=on_step)
            except OutOfMemory as problem:
                if len(now) == 1:
                    raise
                console.warn(f"{problem.what}, {len(now)} pictures at once; going on one by one")
                how = replace(how, batch=1)
                groups = deque((each, [seed]) for each, several in ((work, now), *groups) for seed in several)
                continue
            except KeyboardInterrupt as stop:
                rest = f"--seed {now[0]} -n {len(seeds) - seeds.index(now[0])}"
                if len(works) > 1:
                    rest += f" for {work.story['prompt']!r}, and then with the prompts after it"
                raise Stopped(
                    f"stopped after {len(files)} of {total} pictures",
                    f"for the rest run the same command with {rest}",
                    kept=", ".join(each["file"] for each in files) or "no picture was finished",
                ) from stop
            together = {"at_once": len(now)} if len(now) > 1 else {}
            for seed, picture in zip(now, drawn, strict=True):
                path = pictures.write_picture(picture, work.target, {**work.story, **together, "seed": seed})
                files.append({"file": str(path), "seed": seed, "prompt": work.story["prompt"]})
                if work.look is not None:
                    faces = files[-1]["faces"] = work.look(picture)
                    console.say(f"{path}: faces in the place of {', '.join(f'{who} {n}' for who, n in faces.items())}")
    return files


def _warn_of_empty_places(console: Console, files: Sequence[Mapping[str, Any]]) -> None:
    for who in files[0].get("faces", ()):
        empty = [each["file"] for each in files if not each["faces"][who]]
        if empty:
            console.warn(
                f"no face is found where {who} should be in {', '.join(empty)}: try other seeds, a wider --size, or "
                "one person after the other into a --background"
            )
