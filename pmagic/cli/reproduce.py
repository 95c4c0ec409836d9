"""The story of a picture: all that decides its every bit, and the command that follows from it."""

import re
import shlex
from collections.abc import Iterator, Mapping
from itertools import islice

from pmagic import settings
from pmagic.errors import PhotoRefused, PmagicError
from pmagic.library import bundle
from pmagic.library.store import Library

OPTIONS = ("seed", "steps", "guidance", "scheduler", "negative", "size", "format", "device", "dtype")
# Kinds of a sheet of pictures, of one drawn in the middle of a learning, and of one whose persona no library holds.
UNREPEATABLE = ("grid", "preview", "picture of an evaluation")
_CAST = 64  # personas of one prompt; no base reads more


def repeat(story: Mapping[str, object]) -> str:
    """The command line that draws the picture of this story, quoted for a shell; PhotoRefused where it says too little.

    A story is a text that anybody may have written: it is shown, never run.
    """
    size = story.get("size")
    told = {**story, "size": "x".join(str(side) for side in size) if isinstance(size, list) else size}
    lacking = [name for name in ("persona", "prompt", *OPTIONS) if not isinstance(told.get(name), str | int | float)]
    if lacking:
        raise PhotoRefused(
            f"the picture does not say its {', '.join(lacking)}", "give a picture that `pmagic render` has written"
        )
    options = [f"--{name}={told[name]}" for name in OPTIONS]  # with =, for a value may begin with a dash
    composed = story.get("verb") == "compose"
    words = [str(told["prompt"])] if composed else [str(told["persona"]), str(told["prompt"])]
    options += _composed(story) if composed else []
    verb = "compose" if composed else "render"
    dashed = any(word.startswith("-") for word in words)
    return " ".join(map(_quoted, ["pmagic", verb, *options, *(["--"] if dashed else []), *words]))


def find_changes(story: Mapping[str, object]) -> Iterator[str]:
    """Why the command will not give the same bytes: of each persona that is gone by now, or whose name another has.

    Silent where the story does not say what its personas were.
    """
    told = story.get("persona_sha256")
    for name, digest in islice(told.items(), _CAST) if isinstance(told, dict) else ():
        try:
            address, persona = Library(settings.library_dir()).load(name)
        except (PmagicError, OSError) as problem:
            yield f"{name} cannot be taken from the library, so the command cannot draw this here: {problem}"
            continue
        if bundle.digest(persona) != digest:
            yield f"{address} is not the persona that drew this: another one has its name by now"


def _composed(story: Mapping[str, object]) -> Iterator[str]:
    """The options of compose. A picture does not say where its background was: BACKGROUND and MASK stand for files."""
    for name in ("layout", "mask_text", "box", "soft_edge"):
        if name in story:
            yield f"--{name.replace('_', '-')}={story[name]}"
    yield from (f"--{name}={name.upper()}" for name in ("background", "mask") if name in story)
    if story.get("fit_mask"):
        yield "--fit-mask"


def _quoted(word: str) -> str:
    """As shlex.quote, with the option's name outside the quotes; what would not be printed as it is, by its number."""
    name, equals, value = word.partition("=") if re.match(r"--[a-z-]+=", word) else ("", "", word)
    if value.isprintable():
        return name + equals + shlex.quote(value)
    return f"{name}{equals}$'{''.join(map(_numbered, value))}'"


def _numbered(character: str) -> str:
    r"""A character inside of $'...': \u200d, or \U with eight digits; itself where it is printed and means itself."""
    if character.isprintable() and character not in "'\\":
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
