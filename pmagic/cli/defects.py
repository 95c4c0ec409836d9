"""The log of a defect: the traceback of an exception that nobody expected, written beside the library."""

import traceback
from datetime import UTC, datetime
from pathlib import Path

import pmagic
from pmagic import atomic_io, settings
from pmagic.errors import PmagicError


def describe(error: Exception) -> PmagicError:
    """The problem that the user is shown; its next step names the log."""
    return PmagicError(f"this is a defect of pmagic: {type(error).__name__}: {error}", _write_log(error))


def _write_log(error: Exception) -> str:
    """Writes the traceback beside the library. Returns the advice for the message."""
    text = "".join(traceback.format_exception(error))
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}.log"
    try:
        path: Path = atomic_io.publish_file(
            f"pmagic {pmagic.__version__}\n{text}".encode(errors="backslashreplace"), settings.log_dir() / name
        )
    except (OSError, PmagicError) as failure:
        return f"its log could not be written ({failure}); run the command again to see it"
    return f"please report it with the log {path}"
