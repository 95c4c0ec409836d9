"""Which base a command works on, and what is told about it before a long job."""

from typing import TYPE_CHECKING

from pmagic import settings
from pmagic.cli.console import Console
from pmagic.errors import WeightsMissing

if TYPE_CHECKING:
    from pmagic.bases.card import Card

DEFAULT = "sd14"
DEMO = "mini"


def choose_base(asked: str | None) -> "Card":
    """--base, or config.toml's, or Stable Diffusion 1.4 where it is; its weights are on this machine."""
    from pmagic.bases import card

    name = asked if asked is not None else settings.config().base
    if name is not None:
        return card.require_weights(card.find(name))
    found = card.find(DEFAULT)
    if not card.missing_parts(found):
        return found
    raise WeightsMissing(
        f"no base is chosen, and the default {DEFAULT} ({found.repo}, {found.size_gb} GB) is not on this machine",
        f"for photographs fetch it with `pmagic models pull {DEFAULT}`; to try pmagic at once, on drawn faces only, "
        f"add `--base {DEMO}`",
    )


def device(asked: str | None) -> str:
    return asked if asked is not None else settings.config().device


def tell_memory(console: Console, card: "Card", batch: int) -> None:
    """How much memory a learning takes, and a warning where the machine has less."""
    from pmagic.bases import needs

    wanted, free = needs.memory_to_learn(card, batch), needs.memory_free()
    console.say(f"memory: about {gigabytes(wanted)} besides the program's own")
    if free is not None and free < wanted:
        console.warn(f"this takes about {gigabytes(wanted)} of memory, {gigabytes(free)} are free")


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.2g} GB"
