"""The tables and lists that a TOML or JSON parser gives, named to the type checker; a table's keys are always text."""

from typing import TypeGuard


def is_table(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)
