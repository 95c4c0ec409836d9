"""`pmagic export` and `pmagic import`: a persona as one file, and back."""

from pathlib import Path
from typing import Annotated

import typer

from pmagic import atomic_io, settings
from pmagic.cli import names
from pmagic.cli.console import Console
from pmagic.cli.options import AsJson, Quiet
from pmagic.errors import UsageError
from pmagic.library import archive, lora_file, naming
from pmagic.library.store import Library
from pmagic.tasks import lora_files


def export_persona(
    name: Annotated[str, typer.Argument(help="alice (the newest version), or alice@1", autocompletion=names.personas)],
    out: Annotated[
        Path | None, typer.Argument(help=f"File to write (default: NAME{archive.SUFFIX}). Existing files stay.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", help="For other programs: peft (diffusers) or kohya, as a LoRA of the weights."),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a persona to one file, for another machine.

    Anyone who has the file can draw the person: keep it as private as the photo.

    \b
    pmagic export alice
    pmagic export alice@1 ~/backup/alice.pmagic
    pmagic export a-lora --format peft
    """
    console = Console(quiet=quiet, as_json=as_json)
    if form is not None:
        _export_lora(console, name, out, form)
        return
    address, data = Library(settings.library_dir()).export(name)
    target = out or Path(f"{address.name}{archive.SUFFIX}")
    if target.is_dir():
        target = target / f"{address.name}{archive.SUFFIX}"
    with atomic_io.storing(f"the archive {target}"):
        written = atomic_io.publish_file(data, target)
    console.say("anyone who has this file can draw the person: keep it as private as the photo")
    console.result([str(written)], {"persona": str(address), "file": str(written), "bytes": written.stat().st_size})


def _export_lora(console: Console, name: str, out: Path | None, form: str) -> None:
    address, persona = Library(settings.library_dir()).load(name)
    files = lora_files.export_lora(console, address.name, persona, form)
    target = out or Path(f"{address.name}{lora_file.SUFFIX}")
    if target.is_dir():
        target = target / f"{address.name}{lora_file.SUFFIX}"
    with atomic_io.storing(f"the LoRA {target}"):
        written = [atomic_io.publish_file(files.lora, target)]
        if files.word is not None:
            written.append(atomic_io.publish_file(files.word, target.with_stem(f"{written[0].stem}-word")))
    console.say(f"in a prompt say: {files.words}")
    if files.word is not None:
        console.say(f"<{address.name}> is a new word, whose embedding is in {written[1]} (a textual inversion)")
    console.say("anyone who has this file can draw the person: keep it as private as the photo")
    document = {"persona": str(address), "files": [str(each) for each in written], **files.facts}
    console.result([str(each) for each in written], {**document, "warnings": console.warnings})


def import_persona(
    file: Annotated[
        Path,
        typer.Argument(help=f"A file written by `pmagic export` (*{archive.SUFFIX}), or a LoRA (*{lora_file.SUFFIX})."),
    ],
    name: Annotated[
        str | None, typer.Option("--as", help="Name of the persona here (default: the file's name).")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            help="Of a LoRA: the base it was made for, such as sd15 (default: yours).",
            autocompletion=names.bases,
        ),
    ] = None,
    words: Annotated[
        str | None,
        typer.Option(
            "--word", help='Of a LoRA: the words that call it up, as in "sks person"; they stand for the name.'
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Import a persona from a file. If it is already here under that name, no second version is made.

    \b
    pmagic import alice.pmagic
    pmagic import alice.pmagic --as alice-from-bob
    pmagic import ohwx.safetensors --as carol --base sd15 --word "ohwx woman"
    """
    console = Console(quiet=quiet, as_json=as_json)
    is_lora = file.suffix.lower() in (lora_file.SUFFIX, *lora_file.PICKLES)
    new_name = (file.stem if is_lora else file.name.removesuffix(archive.SUFFIX)) if name is None else name
    library = Library(settings.library_dir())
    before = library.addresses()
    try:
        naming.check_name(new_name)
    except UsageError as problem:
        if name is None:
            raise UsageError(problem.what, "say what to call it with --as NAME") from problem
        raise
    if is_lora:
        address = library.keep(new_name, lora_files.import_lora(console, file, base, words))
    elif base is not None or words is not None:
        raise UsageError("--base and --word are for LoRA files; an archive names its own base", "leave them out")
    else:
        address = library.import_archive(file, new_name)
    exists = address in before
    if exists:
        console.warn(f"this persona is already here as {address}")
    console.result([str(address)], {"persona": str(address), "already_here": exists, "warnings": console.warnings})
