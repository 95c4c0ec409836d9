"""What a base model may be called: its id on the hub, or a short name that says nothing about this machine."""

import re

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)  # owner/name
_LAST_PART = re.compile(r"(?:(?:/|[A-Za-z]:\\)(?:.*[/\\])?)?([^/\\]+)", re.DOTALL)  # any path before the last name


def base_name(text: str) -> str:
    """What a persona may call its base: a short name or a hub id as it is, of an absolute path the last name.

    "" for everything else: what has several parts, leads upwards or home, or cannot be printed.
    """
    if HUB_ID.fullmatch(text):
        return text
    found = _LAST_PART.fullmatch(text)
    name = found[1] if found else ""
    return name if name.isprintable() and name not in (".", "..") and not name.startswith("~") else ""
