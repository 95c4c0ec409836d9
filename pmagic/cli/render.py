"""`pmagic render`: a kept persona in the scene of a prompt."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pmagic import settings
from pmagic.cli import choosing, names
from pmagic.cli.console import Console, duration, hush_libraries
from pmagic.cli.learn import check_seed
from pmagic.cli.stopping import Stopped, stop_at_step
from pmagic.errors import Incompatible, NotFound, UsageProblem
from pmagic.library import durable
from pmagic.library.naming import Address
from pmagic.library.store import Library

if TYPE_CHECKING:
    from PIL import Image

    from pmagic.bases.card import Card
    from pmagic.engine.recipes import RenderSettings
    from pmagic.persona import Persona

NAME = "{}"
_OTHER_NAME = re.compile(r"<([^<>\s]+)>")
_MAX_PICTURES = 10_000


def render(
    name: Annotated[str, typer.Argument(help="alice, or alice@1", autocompletion=names.personas)],
    prompt: Annotated[str, typer.Argument(help='"as a cowboy", or a whole prompt with {} where the name stands.')],
    count: Annotated[int, typer.Option("-n", "--count", help="How many pictures.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Picture k, counted from 0, is drawn with seed + k.")] = 0,
    steps: Annotated[int | None, typer.Option("--steps", help="Sampler steps.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help="How strictly the prompt is followed.")] = None,
    scheduler: Annotated[str | None, typer.Option("--scheduler", help="ddim, dpm++, unipc, euler or pndm.")] = None,
    negative: Annotated[str | None, typer.Option("--negative", help="What the pictures should not show.")] = None,
    size: Annotated[
        str | None, typer.Option("--size", help="WIDTHxHEIGHT or one side, in pixels, multiples of 8.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="Folder to write to, or one file name that ends in .png.")
    ] = Path(),
    base: Annotated[
        str | None, typer.Option("--base", help="Where the persona's base is now, if its folder was moved.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or mps.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="Number type: auto, float32, bfloat16, ...")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No talk, no progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Draw a persona. Prints the path of each picture; no file is ever overwritten."""
    console = Console(quiet=quiet, as_json=as_json)
    if not 1 <= count <= _MAX_PICTURES:
        raise UsageProblem(f"-n must be 1 to {_MAX_PICTURES}, not {count}", "give for example -n 4")
    check_seed(seed, count)
    extent = parse_size(size)
    target_folder, file_name = parse_out(out)
    address, persona = Library(settings.library_dir()).load(name)
    whole = whole_prompt(prompt, address)

    from pmagic.bases import card as cards
    from pmagic.engine import prompts, recipes

    card = cards.require_weights(_base_of(persona.base, base))
    how = recipes.render_settings_for(
        str(persona.settings["recipe"]),
        card.defaults,
        steps=steps,
        guidance=guidance,
        scheduler=scheduler,
        negative=negative,
        size=extent,
    )
    hush_libraries()
    placed = prompts.check_prompt(prompts.load_tokenizer(card.folder), whole, int(persona.settings["tokens"]))
    if placed.cut:
        console.warn(f"the prompt is too long; the base does not read: {placed.cut!r}")

    with durable.storing(f"pictures in {target_folder}"):
        durable.make_folder(target_folder)  # now, or a picture would be drawn that has no place

    from pmagic.bases import loading
    from pmagic.engine import rendering

    opened = loading.load(card, device=choosing.device(device), dtype=dtype)
    if opened.fingerprint != persona.fingerprint:
        raise Incompatible(
            f"{address} was learned on {persona.base}, and the base in {card.folder} has other weights",
            "restore that base, or learn the persona again",
        )
    shown = whole.replace(NAME, f"<{address.name}>")
    console.say(f"drawing {count} of {address} on {card.name} ({opened.device}): {shown}")
    story = {**_story(address, persona, card, how), "prompt": shown, "size": list(how.size or (opened.size,) * 2)}
    target = target_folder / (file_name or f"{address.name}-{_slug(prompt)}.png")
    seeds = [seed + k for k in range(count)]
    start = time.monotonic()
    files = _draw(console, seeds, how, partial(rendering.render, opened, persona, whole), story, target)
    console.say(f"{count} picture{'s' * (count > 1)} in {duration(time.monotonic() - start)}")
    document = {**story, "cut": placed.cut, "pictures": files, "warnings": console.warnings}
    console.result([each["file"] for each in files], document)


def _story(address: Address, persona: "Persona", card: "Card", how: "RenderSettings") -> dict[str, object]:
    """What goes into every picture besides its prompt, size and seed."""
    local = card.repo is None and card.name == str(card.folder)
    return {
        "persona": str(address),
        "word": persona.word,
        "base": card.folder.name if local else card.name,  # a picture may travel: no path of this machine goes along
        "fingerprint": persona.fingerprint,
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
    groups = [seeds[first : first + how.batch] for first in range(0, len(seeds), how.batch)]
    with stop_at_step() as check, console.progress(f"drawing {story['persona']}") as advance:
        for number, now in enumerate(groups):

            def on_step(done: int, total: int, number: int = number) -> None:
                advance(number * total + done, len(groups) * total, f"{len(files)} of {len(seeds)} pictures")
                check()

            try:
                drawn = draw_with(now, how, on_step=on_step)
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


def whole_prompt(prompt: str, address: Address) -> str:
    """`as a cowboy` -> `a photo of {} as a cowboy`; a prompt that names the persona is taken as it is.

    `{}` and `<alice>` (or `<alice@1>`) both stand for the name; another name in angle brackets is refused.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise UsageProblem("the prompt is not valid text", "check the terminal's encoding") from error
    for own in (str(address), address.name):
        prompt = prompt.replace(f"<{own}>", NAME)
    other = _OTHER_NAME.search(prompt)
    if other:
        raise UsageProblem(
            f"the prompt names <{other[1]}>, but {address.name} is drawn",
            f"write {NAME} or <{address.name}> instead",
        )
    return prompt if NAME in prompt else f"a photo of {NAME} {prompt}".strip()


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


def _base_of(learned_on: str, moved_to: str | None) -> "Card":
    from pmagic.bases import card as cards

    try:
        return cards.find(moved_to or learned_on)
    except NotFound as problem:
        if moved_to is not None:
            raise
        raise NotFound(
            f"the base that it was learned on is gone: {learned_on}", "say where it is now with --base"
        ) from problem


def _slug(prompt: str) -> str:
    """The prompt as part of a file name: letters, digits and dashes."""
    plain = re.sub(r"[^\w]+", "-", prompt.replace(NAME, ""), flags=re.UNICODE).strip("-").lower()
    return plain.encode()[:60].decode(errors="ignore").rstrip("-") or "portrait"
