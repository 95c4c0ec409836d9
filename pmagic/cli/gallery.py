"""`pmagic gallery`: the library, or a folder of pictures, as one HTML page that loads nothing else."""

import base64
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pmagic import atomic_io, settings
from pmagic.cli.console import Console, clean
from pmagic.cli.options import AsJson, Quiet
from pmagic.errors import NotFound, PhotoRefused, PmagicError, UsageError
from pmagic.library import bundle
from pmagic.library.naming import folder_of
from pmagic.library.store import Library

SIDE = 320  # pixels of a thumbnail, at most
_MAX_CHARACTERS = 400  # characters of a value on the page


@dataclass(frozen=True)
class Card:
    """One picture of the page. picture: a thumbnail as base64 JPEG; facts: shown below it, by name."""

    name: str
    line: str
    picture: str
    facts: Mapping[str, str]

    @property
    def alt(self) -> str:
        return f"{self.name}: {self.line}" if self.line else self.name

    @property
    def text(self) -> str:
        """The text that a search reads."""
        return " ".join([self.name, self.line, *self.facts.values()])


def gallery(
    folder: Annotated[
        Path | None, typer.Argument(help="A folder of pictures drawn by pmagic (default: the library).")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="File to write. Existing files stay.")] = Path("gallery.html"),
    recursive: Annotated[bool, typer.Option("--recursive", help="Include the folders in the folder.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write one page for any browser, with all personas or with all pictures of a folder.

    \b
    pmagic gallery
    pmagic gallery paintings --out paintings.html
    pmagic gallery paintings --recursive
    """
    console = Console(quiet=quiet, as_json=as_json)
    if recursive and folder is None:
        raise UsageError("--recursive needs a folder of pictures", "give the folder, or leave --recursive out")
    cards = list(_personas(console) if folder is None else _pictures(console, folder, recursive))
    if not cards:
        what = "there is no persona yet" if folder is None else f"{folder} holds no picture drawn by pmagic"
        raise NotFound(what, "learn one, or give a folder with pictures from `pmagic render`")
    filter_names = ("base", "word") if folder is None else ("persona", "base")
    title = "Personas" if folder is None else f"Pictures in {folder.name or folder.resolve().name}"
    data = page(title, "personas" if folder is None else "pictures", cards, filter_names)
    with atomic_io.storing(str(out)):
        written = atomic_io.publish_file(data, out / "gallery.html" if out.is_dir() else out)
    console.say("the page holds faces: keep it as private as the photos")
    console.result([str(written)], {"file": str(written), "cards": len(cards), "warnings": console.warnings})


def page(title: str, kind: str, cards: Sequence[Card], filters: Sequence[str]) -> bytes:
    """The page as HTML. Every text in it is escaped, and only the style and script of this package can run in it."""
    from importlib import resources

    import jinja2

    style, script, template = (
        resources.files("pmagic.cli").joinpath(f"gallery.{kind}").read_text() for kind in ("css", "js", "html")
    )
    values = {name: sorted({card.facts.get(name, "") for card in cards} - {""}) for name in filters}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    text = environment.from_string(template).render(
        title=clean(title), kind=kind, cards=cards, filters=values,
        style=style, script=script, style_sum=_policy_hash(style), script_sum=_policy_hash(script),
    )  # fmt: skip
    return text.encode()


def _personas(console: Console) -> Iterator[Card]:
    library = Library(settings.library_dir())
    for problem in library.unreadable():
        console.warn(f"left out: {problem.what}; {problem.next_step}")
    for address in library.addresses():
        try:
            files = bundle.files(folder_of(library.root, address))
            about = bundle.verify_files(files)
        except PmagicError as problem:
            console.warn(f"{address} is left out: {problem.what}")
            continue
        facts = {
            "base": about.base,
            "word": about.word,
            "method": about.method,
            "dynamic": f"{about.bounds.low} <= t < {about.bounds.high}",
            "photos": str(len(about.photos)),
            **{name: str(value) for name, value in about.settings.items() if isinstance(value, str | int | float)},
        }
        picture = ""
        if bundle.PREVIEW in about.files:
            try:
                picture = _thumbnail(files[bundle.PREVIEW], f"the preview of {address}")
            except PhotoRefused as problem:
                console.warn(problem.what)
        yield _card(str(address), f"{about.word} on {about.base}", picture, facts)


def _pictures(console: Console, folder: Path, recursive: bool) -> Iterator[Card]:
    from pmagic import pictures

    for path in _picture_files(console, folder, recursive):
        name = str(path.relative_to(folder))
        try:
            metadata = pictures.read_metadata(path)
            picture = _thumbnail(path.read_bytes(), name)
        except PhotoRefused:
            continue  # a picture that pmagic did not draw
        except (NotFound, OSError) as problem:  # a dangling link, or a file that was just removed
            console.warn(f"{path} is left out: {problem}")
            continue
        facts = {name: str(value) for name, value in metadata.items() if name != "prompt" and value not in ("", None)}
        yield _card(name, str(metadata.get("prompt", "")), picture, facts)


def _picture_files(console: Console, folder: Path, recursive: bool) -> list[Path]:
    """The pictures in a folder, sorted. recursive: and in its folders, except hidden ones and links."""
    from pmagic import pictures

    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}", "give a folder of pictures")

    def warn_unreadable(error: OSError) -> None:
        console.warn(f"the folder {error.filename} is left out: {error.strerror}")

    paths = []
    for place, inside, files in os.walk(folder, onerror=warn_unreadable):
        inside[:] = [each for each in inside if recursive and not each.startswith(".")]
        paths += [Path(place, each) for each in files if Path(each).suffix.lower() in pictures.ENDINGS]
    return sorted(paths)


def _card(name: str, line: str, picture: str, facts: Mapping[str, str]) -> Card:
    return Card(
        clean(name), clean(line), picture, {clean(key): clean(value)[:_MAX_CHARACTERS] for key, value in facts.items()}
    )


def _thumbnail(data: bytes, name: str) -> str:
    """A small JPEG in base64: encoded again from the decoded picture, and marked as made by a machine."""
    from pmagic import pictures

    image = pictures.decode_image(data, name)
    image.thumbnail((SIDE, SIDE))
    return base64.b64encode(pictures.encode_image(image, "jpeg", {})).decode()


def _policy_hash(text: str) -> str:
    """The hash by which a content security policy allows this text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
