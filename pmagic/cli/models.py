"""`pmagic models`: which bases are on this machine, and fetching one."""

from typing import TYPE_CHECKING, Annotated

import typer

from pmagic import settings
from pmagic.cli import names
from pmagic.cli.console import Console, table

if TYPE_CHECKING:
    from pmagic.bases.card import Card

app = typer.Typer(
    help="List and fetch base models.", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)


@app.command("list")
def list_models(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """List the bases that have a short name, and which of them are here."""
    from pmagic.bases import card

    rows, documents = [], []
    for each in [*card.known(), *_pulled()]:
        missing = card.missing_parts(each)
        size = f"{each.size_gb:.2g} GB" if each.size_gb is not None else "-"
        rows.append((each.name, "no" if missing else "yes", size, each.repo or "shipped with pmagic", each.licence))
        documents.append(
            {
                "name": each.name,
                "here": not missing,
                "missing": missing,
                "folder": each.folder,
                "repo": each.repo,
                "size_gb": each.size_gb,
                "licence": each.licence,
            }
        )
    Console(as_json=as_json).result(table(rows, ("BASE", "HERE", "SIZE", "FROM", "LICENCE")), documents)


@app.command("pull")
def pull(
    name: Annotated[str, typer.Argument(help="sd14, sd15, dreamlike or a hub id", autocompletion=names.bases)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No talk, no progress.")] = False,
) -> None:
    """Fetch a base and its observer: safetensors only; size and licence are told first."""
    from pmagic.bases import fetching

    console = Console(quiet=quiet, as_json=as_json)
    card, orders = fetching.orders(name)
    for order in orders:
        console.say(f"{order.repo}: {order.size / 1e9:.2f} GB to {order.place}, licence: {order.licence}")
    fetched = [
        {
            "repo": order.repo,
            "bytes": order.size,
            "licence": order.licence,
            "folder": str(fetching.fetch(order, show=console.talks)),
        }
        for order in orders
    ]
    if not orders:
        console.say(f"{card.name} is here already")
    console.result([str(each["folder"]) for each in fetched], {"base": card.name, "fetched": fetched})


def _pulled() -> "list[Card]":
    """Bases that were pulled by their hub id and have no short name."""
    from pmagic.bases import card

    known = {each.repo for each in card.known()}
    try:
        folders = sorted(settings.models_dir().iterdir())
    except FileNotFoundError:
        return []
    ids = [each.name.replace("--", "/", 1) for each in folders if (each / "model_index.json").is_file()]
    return [card.find(each) for each in ids if each not in known]
