"""`pmagic config`: your own defaults, in config.toml."""

import os
from dataclasses import asdict
from typing import Annotated

import typer

from pmagic import atomic_io, settings
from pmagic.cli import names
from pmagic.cli.console import Console, table
from pmagic.cli.options import AsJson, Quiet

app = typer.Typer(
    help="Read and write your own defaults: base, device, format.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
Key = Annotated[str, typer.Argument(help="base, device or format", autocompletion=names.config_keys)]


@app.command("get")
def get(
    key: Annotated[
        str | None, typer.Argument(help="base, device or format (default: all).", autocompletion=names.config_keys)
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Print the defaults in effect: from a PMAGIC_ variable, from config.toml, or from pmagic itself.

    \b
    pmagic config get
    pmagic config get base
    """
    values = {name: value or "" for name, value in asdict(settings.config()).items()}
    if key is not None:
        values = {key: values[settings.check_key(key)]}
    lines = list(values.values()) if key is not None or quiet else [f"{name} = {v}" for name, v in values.items()]
    Console(quiet=quiet, as_json=as_json).result(lines, values)


@app.command("set")
def set_value(
    key: Key,
    value: Annotated[str, typer.Argument(help='The new default; "" restores that of pmagic.')],
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a default to config.toml.

    \b
    pmagic config set base sd14
    pmagic config set format webp
    pmagic config set base ""
    """
    console = Console(quiet=quiet, as_json=as_json)
    value = _check_value(key, value) if value else value
    data = settings.with_value(key, value)
    path = settings.config_file()
    with atomic_io.storing(str(path)):
        atomic_io.make_folder(path.parent)
        atomic_io.replace_file(path, data)
    variable = settings.VARIABLES[key]
    now = os.environ.get(variable)
    if value and now and now != value:
        console.warn(f"{variable} is set to {now!r}, which overrides config.toml")
    console.result([] if quiet else [f"{key} = {value}"], {"key": key, "value": value, "file": str(path)})


@app.command("list")
def list_values(quiet: Quiet = False, as_json: AsJson = False) -> None:
    """List all defaults, and where each comes from.

    \b
    pmagic config list
    """
    values = asdict(settings.config())
    document = {name: {"value": value or "", "from": settings.origin(name)} for name, value in values.items()}
    rows = [(name, each["value"], each["from"] or "comes with pmagic") for name, each in document.items()]
    lines = list(values) if quiet else table(rows, ("KEY", "VALUE", "FROM"))
    Console(quiet=quiet, as_json=as_json).result(lines, document)


@app.command("unset")
def unset(key: Key, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Remove a default from config.toml, even one that cannot be used.

    \b
    pmagic config unset device
    """
    data = settings.with_value(key, "")
    path = settings.config_file()
    if path.exists():
        with atomic_io.storing(str(path)):
            atomic_io.replace_file(path, data)
    Console(quiet=quiet, as_json=as_json).result([] if quiet else [f"{key} ="], {"key": key, "file": str(path)})


@app.command("path")
def path(quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Print where config.toml is, or would be.

    \b
    pmagic config path
    """
    file = str(settings.config_file())
    Console(quiet=quiet, as_json=as_json).result([file], {"path": file})


def _check_value(key: str, value: str) -> str:
    """The value to store, after the checks that a command would make when it uses the value.

    Raises UsageError, and for a base also NotFound or Incompatible.
    """
    settings.check_key(key)
    if key == "base":
        from pmagic.bases import model_spec

        return model_spec.resolve(value).name  # a folder as an absolute path: later commands may run elsewhere
    if key == "device":
        settings.check_device(value)  # without torch

        from pmagic.bases import loading

        loading.find_device(value)
    return value
