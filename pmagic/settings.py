"""Where things live on this machine, and the person's own defaults from config.toml."""

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from pmagic.errors import UsageProblem

CONFIG_KEYS = {"base", "device"}
MAX_CONFIG_BYTES = 64 * 1024


@dataclass(frozen=True)
class Config:
    """What config.toml may say; a command-line flag overrides each."""

    base: str | None = None  # the base that `learn` uses without --base
    device: str = "auto"  # "auto", "cpu", "cuda", "mps"


def _moved_home() -> Path | None:
    """The one folder that `PMAGIC_HOME` asks for, or None when the platform's own places are used."""
    text = os.environ.get("PMAGIC_HOME", "")
    return Path(text).expanduser().absolute() if text else None


def library_dir() -> Path:
    """Personas. Private: they are derived from faces."""
    return _place("data") / "library"


def models_dir() -> Path:
    """Downloaded base models."""
    return _place("data") / "models"


def config_file() -> Path:
    return _place("config") / "config.toml"


def log_dir() -> Path:
    """Tracebacks of defects, written only when one happens."""
    return _place("log") / "logs"


def config() -> Config:
    """Reads config.toml; `UsageProblem` names the file and the key that cannot be used."""
    path = config_file()
    try:
        with path.open("rb") as file:
            found = tomllib.loads(file.read(MAX_CONFIG_BYTES).decode())
    except FileNotFoundError:
        return Config()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageProblem(f"{path} is not valid TOML: {error}", "correct the file, or remove it") from error
    except OSError as error:
        raise UsageProblem(f"{path} cannot be read: {error.strerror}", "correct its permissions") from error
    for key, value in found.items():
        if key not in CONFIG_KEYS:
            raise UsageProblem(f"{path} has an unknown key {key!r}", f"use only: {', '.join(sorted(CONFIG_KEYS))}")
        if not isinstance(value, str) or not value:
            raise UsageProblem(f"{path}: {key} must be a text, not {value!r}", f'write for example: {key} = "mini"')
    return Config(**found)


def _place(kind: str) -> Path:
    """`PMAGIC_HOME`, or platformdirs' folder of this kind (data, config, log)."""
    moved = _moved_home()
    if moved is not None:
        return moved
    import platformdirs  # here, so that PMAGIC_HOME costs nothing

    return getattr(platformdirs, f"user_{kind}_path")("pmagic", appauthor=False)
