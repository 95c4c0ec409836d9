"""The command that draws a picture again, from the metadata that decide its every bit."""

import re
import shlex
from collections.abc import Iterator, Mapping
from itertools import islice

from pmagic import settings
from pmagic.bases import adapter_files, local_bases
from pmagic.errors import PhotoRefused, PmagicError
from pmagic.library import bundle
from pmagic.library.store import Library
from pmagic.tasks.drawing import AT_ONCE

OPTIONS = ("seed", "steps", "guidance", "scheduler", "negative", "size", "format", "device", "dtype")
# No single command draws these: a sheet, a picture drawn while learning, and one whose persona is in no library.
UNREPEATABLE = ("grid", "preview", "picture of an evaluation")
_MAX_LOOKS = 64
_MAX_PERSONAS = 64  # personas of one prompt; no base reads more


def repeat(metadata: Mapping[str, object]) -> str:
    """The command line that draws the picture with this metadata, quoted for a shell. See `batch_of`, too.

    Anybody may have written the metadata: the command is shown, never run. Raises PhotoRefused if metadata are missing.
    """
    size = metadata.get("size")
    values = {**metadata, "size": "x".join(str(side) for side in size) if isinstance(size, list) else size}
    missing = [name for name in ("persona", "prompt", *OPTIONS) if not isinstance(values.get(name), str | int | float)]
    if missing:
        raise PhotoRefused(
            f"the picture does not say its {', '.join(missing)}", "give a picture written by `pmagic render`"
        )
    batch = batch_of(metadata)
    if batch:
        values["seed"] = batch[0]
    options = [f"--{name}={values[name]}" for name in OPTIONS]  # with =, for a value may begin with a dash
    if isinstance(metadata.get("strength"), int | float):
        options.append(f"--strength={metadata['strength']}")
    options += _adapter_options(metadata)
    options += [f"--count={len(batch)}", "--memory=normal"] if batch else []
    is_compose = metadata.get("verb") == "compose"
    names = [] if is_compose or not values["persona"] else [str(values["persona"])]
    words = [*names, str(values["prompt"])]
    if not values["persona"]:  # no persona says which base it is
        options.append(f"--base={_base_of(metadata)}")
    options += _compose_options(metadata) if is_compose else []
    verb = "compose" if is_compose else "render"
    has_dash = any(word.startswith("-") for word in words)
    return " ".join(map(_quote, ["pmagic", verb, *options, *(["--"] if has_dash else []), *words]))


def batch_of(metadata: Mapping[str, object]) -> range:
    """The seeds of the pictures that were drawn at once with this one, all of which `repeat` draws; else empty.

    It is also empty for a picture that does not say them, and for numbers that cannot be true.
    """
    first, count, seed = (metadata.get(name) for name in ("first_seed", "at_once", "seed"))
    if not (isinstance(first, int) and isinstance(count, int) and 1 < count <= AT_ONCE and first >= 0):
        return range(0)
    seeds = range(first, first + count)
    return seeds if isinstance(seed, int) and seed in seeds else range(0)


def find_changes(metadata: Mapping[str, object]) -> Iterator[str]:
    """Why the command will not give the same bytes: a reason for each persona that is gone or replaced by another.

    And for an adapter. Metadata that do not identify their personas give no reasons.
    """
    yield from _adapter_changes(metadata)
    digests = metadata.get("persona_sha256")
    for name, digest in islice(digests.items(), _MAX_PERSONAS) if isinstance(digests, dict) else ():
        try:
            address, persona = Library(settings.library_dir()).load(name)
        except (PmagicError, OSError) as problem:
            yield f"{name} cannot be read from the library, so the command cannot draw this here: {problem}"
            continue
        if bundle.digest(persona) != digest:
            yield f"{address} is not the persona that drew this: another one has its name now"


def _adapter_options(metadata: Mapping[str, object]) -> Iterator[str]:
    """The options of an adapter. A picture does not say where its looks were: LOOK stands for a file."""
    if not isinstance(metadata.get("adapter"), str):
        return
    yield f"--with={metadata['adapter']}"
    if isinstance(metadata.get("scale"), int | float):
        yield f"--scale={metadata['scale']}"
    looks = metadata.get("look_sha256")
    if isinstance(looks, dict):
        named = [(name, hashes) for name, hashes in islice(looks.items(), _MAX_PERSONAS) if isinstance(hashes, list)]
        yield from (f"--look={name}=LOOK" for name, hashes in named for _ in hashes[:_MAX_LOOKS])
    elif isinstance(looks, list):
        yield from ("--look=LOOK" for _ in looks[:_MAX_LOOKS])


def _base_of(metadata: Mapping[str, object]) -> str:
    """The base of a picture without a persona, where it is on this machine, else its name."""
    name, fingerprint = str(metadata.get("base", "")), str(metadata.get("fingerprint", ""))
    try:
        return local_bases.base_of(name, fingerprint).name
    except PmagicError:
        return name


def _adapter_changes(metadata: Mapping[str, object]) -> Iterator[str]:
    """Why the adapter of the command will not draw the same: it is not here, or has other weights."""
    name = metadata.get("adapter")
    if not isinstance(name, str):
        return
    if name not in adapter_files.KNOWN:
        yield f"--with {name} stands for a file of that name; its SHA-256 was {metadata.get('adapter_sha256')}"
        return
    try:
        files = adapter_files.find(name)
    except (PmagicError, OSError) as problem:
        yield f"the adapter {name} cannot be read, so the command cannot draw this here: {problem}"
        return
    if files.sha256 != metadata.get("adapter_sha256"):
        yield f"the adapter {name} has other weights than the one that drew this"


def _compose_options(metadata: Mapping[str, object]) -> Iterator[str]:
    """The options of compose. A picture does not say where its background was: BACKGROUND and MASK stand for files."""
    for name in ("layout", "mask_text", "box", "soft_edge"):
        if name in metadata:
            yield f"--{name.replace('_', '-')}={metadata[name]}"
    yield from (f"--{name}={name.upper()}" for name in ("background", "mask") if name in metadata)
    if metadata.get("fit_mask"):
        yield "--fit-mask"


def _quote(word: str) -> str:
    """Like shlex.quote, with the option's name outside the quotes. Unprintable characters are written by number."""
    name, equals, value = word.partition("=") if re.match(r"--[a-z-]+=", word) else ("", "", word)
    if value.isprintable():
        return name + equals + shlex.quote(value)
    return f"{name}{equals}$'{''.join(map(_escape, value))}'"


def _escape(character: str) -> str:
    r"""A character inside $'...': itself where it can be, else \u with four digits or \U with eight."""
    if character.isprintable() and character not in "'\\":
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
