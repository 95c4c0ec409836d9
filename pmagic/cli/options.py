"""Options that mean the same in every command that has them, and the numbers written inside of others."""

import re
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No talk; only names or paths.")]


def number(text: str) -> int | None:
    """The whole number that is written in a part of an option; None for anything else, and beyond nine digits."""
    return int(text) if re.fullmatch(r"\d{1,9}", text, re.ASCII) else None
