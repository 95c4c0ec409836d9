"""Older formats of persona.toml, brought up to date on reading; files on the disk stay as they were written.

One function for each step, named m<old>_<what changed>: it takes the table of format n and returns that of n + 1.
Every released format has a frozen bundle in tests/formats/, which must stay readable for good.
"""

from collections.abc import Callable, Mapping

from pmagic.errors import BundleDamaged, Incompatible

Table = dict[str, object]

MIGRATIONS: Mapping[int, Callable[[Table], Table]] = {}  # by the format they start from; format 1 is the first


def migrate(table: Table, wanted: int) -> Table:
    """The table in the format `wanted`.

    Raises Incompatible for a newer format, and BundleDamaged where a table is not in the format it names.
    """
    version = table.get("format")
    if type(version) is not int or version not in (wanted, *MIGRATIONS):
        raise Incompatible(
            f"the persona has bundle format {str(version)[:20]!s}, this pmagic reads {_formats(wanted)}",
            "use the pmagic that wrote it, or learn the persona again",
        )
    for number in range(version, wanted):
        try:
            table = {**MIGRATIONS[number](dict(table)), "format": number + 1}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleDamaged(
                f"persona.toml: it says format {number}, but is not in that format: {error!r}",
                "learn the persona again, or remove it with `pmagic rm`",
            ) from error
    return table


def _formats(newest: int) -> str:
    oldest = min(MIGRATIONS, default=newest)
    return str(newest) if oldest == newest else f"{oldest} to {newest}"
