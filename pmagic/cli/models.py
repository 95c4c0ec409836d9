"""`pmagic models`: which bases, observers and face packs are on this machine, and fetching one."""

from typing import TYPE_CHECKING, Annotated

import typer

from pmagic import settings
from pmagic.cli import names
from pmagic.cli.console import Console, table

if TYPE_CHECKING:
    from pmagic.bases.card import Card

app = typer.Typer(
    help="List and fetch base models, their observers and face packs.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command("list")
def list_models(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """List the bases that have a short name, the observers and the face packs, and which of them are here."""
    from pmagic.bases import card, fetching

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
    kinds = {card.CLIP_REPO: "the hub", card.CLIPSEG_REPO: "the hub"} | dict.fromkeys(fetching.PACKS, "insightface")
    for name, source in kinds.items():
        here, place = card.place_of(name).is_dir(), card.place_of(name)
        size = fetching.PACKS[name] / 1e9 if name in fetching.PACKS else None
        licence = fetching.PACK_LICENCE if name in fetching.PACKS else "see its page"
        rows.append((name, "yes" if here else "no", f"{size:.2g} GB" if size else "-", source, licence))
        documents.append(
            {
                "name": name,
                "here": here,
                "missing": [] if here else ["the weights"],
                "folder": place if here else None,
                "repo": name,
                "size_gb": size,
                "licence": licence,
            }
        )
    Console(as_json=as_json).result(table(rows, ("MODEL", "HERE", "SIZE", "FROM", "LICENCE")), documents)


@app.command("pull")
def pull(
    name: Annotated[
        str, typer.Argument(help="sd14, sd15, dreamlike, a hub id, buffalo_l or antelopev2", autocompletion=names.bases)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No talk, no progress.")] = False,
) -> None:
    """Fetch a base with CLIP and CLIPSeg, or a face pack: never a pickle; size and licence are told first."""
    from pmagic.bases import fetching

    console = Console(quiet=quiet, as_json=as_json)
    orders = fetching.orders(name)
    for order in orders:
        console.say(f"{order.repo}: {order.size / 1e9:.2f} GB to {order.place}, licence: {order.licence}")
        if order.repo in fetching.PACKS:
            console.warn(f"{order.repo} may be used for {order.licence}")
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
        console.say(f"{name} is here already")
    console.result([str(each["folder"]) for each in fetched], {"base": name, "fetched": fetched})


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
