"""Reads TOML from outside within bounds: the standard parser takes quadratic time for keys of many parts.

Long keys, numbers and lines, and strings over several lines, are refused before the parser runs.
"""

import re
import tomllib
from typing import Any

MAX_KEY_PARTS = 8
MAX_LINE = 64 * 1024  # characters
MAX_WORD = 1000  # characters of a bare key or a number; Python cannot print an integer of more than 4300 digits
# The alternatives stand in the parser's own order, so that no key can hide in text that only looks like a string. Once
# they are replaced, only keys, numbers and punctuation are left, with `""` in place of each string. Every repeat is
# possessive and an open string ends with its line, so both expressions read each character a few times at most.
_TOKENS = re.compile(r'"""|\'\'\'|"(?:[^"\\\n]|\\[^\n])*+"?|\'[^\'\n]*+\'?|#[^\n]*+')
_PART = r'(?:[\w-]++|"")'
_LONG_WORD = re.compile(rf"(?<![\w-])[\w-]{{{MAX_WORD + 1}}}", re.ASCII)
_LONG_KEY = re.compile(rf"(?<![\w-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{MAX_KEY_PARTS}}}", re.ASCII)


def loads(data: bytes) -> dict[str, Any]:
    """The table in UTF-8 bytes. Raises ValueError for anything that does not parse or exceeds a bound."""
    text = data.decode()
    if max(map(len, text.split("\n"))) > MAX_LINE:
        raise ValueError(f"a line has more than {MAX_LINE} characters")
    bare = _TOKENS.sub(_placeholder, text)
    if _LONG_WORD.search(bare):
        raise ValueError(f"a key or a number has more than {MAX_WORD} characters")
    if _LONG_KEY.search(bare):
        raise ValueError(f"a key has more than {MAX_KEY_PARTS} parts")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _placeholder(token: re.Match[str]) -> str:
    if token[0] in ('"""', "'''"):
        raise ValueError("a string over several lines is not supported")
    return "" if token[0].startswith("#") else '""'
