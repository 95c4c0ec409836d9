"""The folders on this machine, and the person's own defaults: config.toml, overridden by environment variables.

It knows nothing of flags; a command's flags override the values from here.
"""

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pmagic import bounded_toml
from pmagic.errors import UsageError

MAX_TOML_BYTES = 64 * 1024
VARIABLES = {"base": "PMAGIC_BASE", "device": "PMAGIC_DEVICE", "format": "PMAGIC_FORMAT"}
CHOICES = {"format": ("png", "jpeg", "webp")}  # a base can be any, and is looked for when it is used
NumberType = Literal["auto", "float64", "float32", "bfloat16", "float16"]  # "auto" is what the hardware is best at
NUMBER_TYPES: tuple[str, ...] = get_args(NumberType)[1:]
# Names that a device can have anywhere; whether it is on this machine is seen when it is used.
_DEVICE = re.compile(r"auto|cpu|mps|(cuda|xpu|hpu|npu|mtia|xla)(:\d{1,3})?")


@dataclass(frozen=True)
class Config:
    """The person's own defaults; a command-line flag overrides each."""

    base: str | None = None  # the base that `learn` uses without --base
    device: str = "auto"
    format: str = "png"  # of the pictures that `render` writes


def _home_override() -> Path | None:
    """The folder in `PMAGIC_HOME`, or None where the platform's own folders are used."""
    text = os.environ.get("PMAGIC_HOME", "")
    return expand_path(text).absolute() if text else None


def expand_path(text: str) -> Path:
    """The path with `~` and `~name` replaced by a home folder; UsageError for an unknown user."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{text!r} names the home folder of an unknown user", "write the whole path") from error


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a small file that a person may have written. Raises ValueError for anything that does not parse."""
    with path.open("rb") as file:
        data = file.read(MAX_TOML_BYTES)
    return bounded_toml.loads(data)


def library_dir() -> Path:
    """Personas. Private: they are derived from faces."""
    return _place("data") / "library"


def models_dir() -> Path:
    """Downloaded base models."""
    return _place("data") / "models"


def places_file() -> Path:
    """The file that records the local base folders on which personas were learned."""
    return _place("data") / "bases.toml"


def config_file() -> Path:
    return _place("config") / "config.toml"


def log_dir() -> Path:
    """Tracebacks of defects, written only when one happens."""
    return _place("log") / "logs" if _home_override() is not None else _place("log")


def config() -> Config:
    """config.toml, overridden by environment variables; UsageError names the file or variable with a bad value."""
    values = config_table()
    for key, variable in VARIABLES.items():
        if os.environ.get(variable):
            values[key] = _check(key, os.environ[variable], variable)
    return Config(**values)


def config_table() -> dict[str, str]:
    """The checked values of config.toml alone; empty without the file."""
    return {key: _check(key, value, str(config_file())) for key, value in _raw_table().items()}


def with_value(key: str, value: str) -> bytes:
    """The new content of config.toml, with `key` set to `value`; an empty value removes the key.

    The other keys stay as they are, even those with a bad value: they can be corrected one by one.
    """
    import tomli_w

    table = _raw_table()
    if value:
        table[key] = _check(key, value)
    else:
        if key not in table:
            check_key(key)
        table.pop(key, None)
    return tomli_w.dumps(table).encode()


def origin(key: str) -> str:
    """Where a value comes from: the variable or the file that sets it, "" for a built-in default."""
    if os.environ.get(VARIABLES[key]):
        return VARIABLES[key]
    return str(config_file()) if key in _raw_table() else ""


def suggest_fix(key: str, place: str) -> str:
    """What to do about a value that cannot be used, where `place` (see origin) states it."""
    if place == VARIABLES.get(key):
        return f"unset {place}"
    return f"take it out with `pmagic config unset {shlex.quote(key)}`"


def check_device(name: str, place: str = "") -> None:
    """Raises UsageError for a name that no device has; `bases.loading` checks that this machine has the device.

    place: the file or variable that sets the name, "" for the command line.
    """
    if not _DEVICE.fullmatch(name.lower()):
        raise UsageError(
            f"{place}: the device {name!r} is not known" if place else f"the device {name!r} is not known",
            suggest_fix("device", place) if place else "use auto, cpu, cuda, cuda:1, mps, ...",
        )


def check_key(key: str, place: str = "") -> str:
    """UsageError for an unknown key. place: what states it, where that is not the command line."""
    if key not in VARIABLES:
        keys = ", ".join(sorted(VARIABLES))
        if not place:
            raise UsageError(f"there is no key {key!r}", f"choose one of: {keys}")
        raise UsageError(f"{place} has an unknown key {key!r}", f"use only: {keys}; {suggest_fix(key, place)}")
    return key


def _raw_table() -> dict[str, Any]:
    path = config_file()
    try:
        return read_toml(path)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UsageError(f"{path} is not valid TOML: {error}", "correct the file, or remove it") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "correct its permissions") from error


def _check(key: str, value: object, place: str = "") -> str:
    check_key(key, place)
    stated = f"{place}: " if place else ""
    if not isinstance(value, str) or not value:
        raise UsageError(
            f"{stated}{key} must be a text, not {value!r}",
            f"{suggest_fix(key, place)}, then set it with `pmagic config set`",
        )
    if key in CHOICES and value not in CHOICES[key]:
        raise UsageError(f"{stated}{key} cannot be {value!r}", f"choose one of: {', '.join(CHOICES[key])}")
    if key == "device":
        check_device(value, place)
    return value


def _place(kind: str) -> Path:
    """`PMAGIC_HOME`, or platformdirs' folder of this kind (data, config, log)."""
    moved = _home_override()
    if moved is not None:
        return moved
    import platformdirs  # imported here, so that PMAGIC_HOME does without it

    return getattr(platformdirs, f"user_{kind}_path")("pmagic", appauthor=False)
