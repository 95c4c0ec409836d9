"""Options that mean the same in every command that has them, and the numbers written inside of others."""

import re
import secrets
from typing import Annotated

import typer

from pmagic.errors import UsageError

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No talk; only names or paths.")]


def parse_seed(text: str) -> int:
    """--seed: a whole number, or `random` for one that is drawn now. UsageError for anything else."""
    if str(text).strip().lower() == "random":
        return secrets.randbelow(2**31)  # with room above for one picture after the other
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(
            f"--seed must be a whole number, or random, not {text[:80]!r}", "give for example --seed 1"
        ) from error


def number(text: str) -> int | None:
    """The whole number that is written in a part of an option; None for anything else, and beyond nine digits."""
    return int(text) if re.fullmatch(r"\d{1,9}", text, re.ASCII) else None


def parse_stages(text: str | None) -> tuple[int, int] | None:
    """`400:800` -> (400, 800); whether the numbers can be bounds is the recipe's to say."""
    if text is None:
        return None
    low, high = (number(each) for each in text.partition(":")[::2])
    if low is None or high is None:
        raise UsageError(f"--stages cannot be {text[:80]!r}", "write it as LOW:HIGH, for example 400:800")
    return low, high
