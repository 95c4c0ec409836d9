"""Options that several commands share, and how numbers in option values are read."""

import re
import secrets
from typing import Annotated

import typer

from pmagic.errors import UsageError

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only names or paths.")]


def parse_seed(text: str) -> int:
    """The value of --seed: a whole number, or a new random one for `random`. Raises UsageError."""
    if str(text).strip().lower() == "random":
        return secrets.randbelow(2**31)  # leaves room for the seeds of further pictures
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(
            f"--seed must be a whole number, or random, not {text[:80]!r}", "give for example --seed 1"
        ) from error


def number(text: str) -> int | None:
    """The whole number of at most nine digits that the text spells; None for any other text."""
    return int(text) if re.fullmatch(r"\d{1,9}", text, re.ASCII) else None


def parse_stages(text: str | None) -> tuple[int, int] | None:
    """`400:800` -> (400, 800). The recipe checks whether they can be bounds."""
    if text is None:
        return None
    low, high = (number(each) for each in text.partition(":")[::2])
    if low is None or high is None:
        raise UsageError(f"--stages cannot be {text[:80]!r}", "write it as LOW:HIGH, for example 400:800")
    return low, high
