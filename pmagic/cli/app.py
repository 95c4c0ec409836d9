"""The program: its commands, and the one place where a problem becomes a message and an exit code."""

import errno
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

import pmagic
from pmagic.bases import light_imports
from pmagic.cli import (
    archives,
    compose,
    config,
    console,
    cp,
    defects,
    demo,
    doctor,
    evaluate,
    gallery,
    info,
    learn,
    methods,
    models,
    mv,
    path,
    probe,
    render,
    rm,
    sample,
    serve,
    setup,
    shell,
    show,
    stopping,
    study,
    verify,
)
from pmagic.cli import list as listing
from pmagic.errors import STOPPED_BY_PERSON, OutOfMemory, PmagicError, UsageError


class Program(TyperGroup):
    """Runs a command. Every exception becomes one message, never a traceback."""

    def main(self, args: Sequence[str] | None = None, **options: Any) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        as_json = "--json" in words
        try:
            code = super().main(args=words, **{**options, "standalone_mode": False})
            sys.stdout.flush()
            if code == STOPPED_BY_PERSON:  # typer's exit code for KeyboardInterrupt
                raise KeyboardInterrupt
        except PmagicError as problem:
            code = _end(problem, as_json)
        except typer.TyperException as error:
            code = _end(_explain_usage(error), as_json)
        except (typer.Abort, KeyboardInterrupt):
            code = _end(stopping.Stopped("stopped", kept="everything that was stored before"), as_json)
        except Exception as error:
            code = _end(_explain_error(error), as_json)
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    name="pmagic",
    cls=Program,
    help="Learn a person from one photo and draw them in any scene.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help starts faster, and markup in outside text has no effect
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("setup")(setup.setup)
app.command("sample")(sample.sample)
app.command("learn")(learn.learn)
app.command("probe")(probe.probe)
app.command("render")(render.render)
app.command("compose")(compose.compose)
app.command("eval")(evaluate.evaluate)
app.command("list")(listing.list_personas)
app.command("show")(show.show)
app.command("mv")(mv.move)
app.command("cp")(cp.copy)
app.command("rm")(rm.remove)
app.command("export")(archives.export_persona)
app.command("import")(archives.import_persona)
app.command("verify")(verify.verify)
app.command("path")(path.path)
app.command("info")(info.info)
app.command("gallery")(gallery.gallery)
app.command("doctor")(doctor.doctor)
app.command("serve")(serve.serve)
app.command("shell")(shell.shell)
app.command("methods")(methods.list_methods)
app.add_typer(study.app, name="study")
app.add_typer(models.app, name="models")
app.add_typer(config.app, name="config")


def _print_version(requested: bool) -> None:
    if requested:
        print(f"pmagic {pmagic.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """The entry point of the `pmagic` script."""
    # torch reads this when it is imported. Threads that spin for long while they wait make learning several times
    # slower as soon as another program uses the same cores. Threads that sleep at once wake up too late, which makes
    # learning twice as slow on an idle machine. A short spin, counted in rounds of libgomp, is a compromise.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed: the next opened file would get its number
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    # A terminal without Unicode must not end a command.
    cast(io.TextIOWrapper, sys.stdout).reconfigure(errors="backslashreplace")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # warnings of libraries, which the user cannot act on
    stopping.stop_anywhere()
    light_imports.enable()
    app()


def _end(problem: PmagicError, as_json: bool) -> int:
    try:
        console.show_problem(problem, as_json=as_json)
    except OSError as error:
        console.abandon_stdout(error)  # nobody reads the message; the exit code still reports the problem
    return problem.exit_code


def _explain_usage(error: typer.TyperException) -> PmagicError:
    """The problem that typer found in the command line. For a call without arguments, prints the help instead."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "pmagic"
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message())
        raise SystemExit(UsageError.exit_code)
    return UsageError(error.format_message(), f"see `{command} --help`")


def _explain_error(error: Exception) -> PmagicError:
    """A closed stdout, too long a name and too little memory are not defects of pmagic; any other exception is one.

    The traceback of a defect is written to a log.
    """
    if isinstance(error, OSError) and error.filename is None and error.errno in (errno.EPIPE, errno.ENOSPC, errno.EIO):
        return console.abandon_stdout(error)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return UsageError(f"the name is too long for a file: {str(error.filename)[:80]!r}...", "give a shorter one")
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        # numpy and torch say how much memory they requested; Python does not.
        return OutOfMemory(
            f"there is not enough memory for this{f': {error}' if str(error) else ''}",
            "close other programs, draw smaller pictures (--size), or learn with --batch 1",
        )
    return defects.describe(error)
