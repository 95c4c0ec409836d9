"""`pmagic models`: which bases, observers and face packs are on this machine, fetching one and removing it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmagic import settings
from pmagic.cli import names
from pmagic.cli.console import Console, table
from pmagic.cli.options import AsJson, Quiet
from pmagic.errors import NotFound, UsageProblem
from pmagic.library import durable
from pmagic.library.store import Library

if TYPE_CHECKING:
    from pmagic.bases.card import Card
    from pmagic.library.store import Entry

app = typer.Typer(
    help="List, fetch and remove base models, their observers and face packs.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command("list")
def list_models(quiet: Quiet = False, as_json: AsJson = False) -> None:
    """List the bases that have a short name, the observers and the face packs, and which of them are here.

    \b
    pmagic models list
    pmagic models list -q    (only the names of those that are here)
    """
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
    lines = table(rows, ("MODEL", "HERE", "SIZE", "FROM", "LICENCE"))
    here = [str(each["name"]) for each in documents if each["here"]]
    Console(quiet=quiet, as_json=as_json).result(here if quiet else lines, documents)


@app.command("pull")
def pull(
    name: Annotated[
        str,
        typer.Argument(help="sd14, sd15, dreamlike, a hub id, buffalo_l or antelopev2", autocompletion=names.pullable),
    ],
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask no network: only tell whether all of it is here already.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Fetch a base with CLIP and CLIPSeg, or a face pack: never a pickle; size and licence are told first.

    Interrupted, the same command goes on with what is there. SHA-256 sums are compared where the hub states them.

    \b
    pmagic models pull sd14
    pmagic models pull buffalo_l
    """
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read by the hub's client when it is imported, which is now

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


@app.command("path")
def path(
    name: Annotated[
        str | None, typer.Argument(help="A model's name; without it, the folder of all.", autocompletion=names.bases)
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Print the folder of a model that is here, or of all models.

    \b
    pmagic models path
    pmagic models path mini
    """
    folder = settings.models_dir() if name is None else _folder(name)
    Console(quiet=quiet, as_json=as_json).result([str(folder)], {"path": str(folder)})


@app.command("rm")
def remove(
    name: Annotated[str, typer.Argument(help="sd14, a hub id, a pack, ...", autocompletion=names.pulled)],
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Remove a model that was pulled, and free its space. Personas learned on it stay, and need it to be drawn.

    \b
    pmagic models rm dreamlike
    """
    console = Console(quiet=quiet, as_json=as_json)
    folder = _folder(name)
    if folder.parent != settings.models_dir():
        raise UsageProblem(f"{name!r} was not pulled: it is in {folder}", "only pulled models can be removed")
    freed = sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
    needing = [str(each.address) for each in Library(settings.library_dir()).entries() if _learned_on(each, name)]
    if needing:
        console.warn(f"{', '.join(needing)} cannot be drawn before {name} is pulled again")
    with durable.storing(f"the removal of {name}"):
        durable.withdraw(folder, folder.with_name(f".{folder.name}.removed"))
    console.say(f"{freed / 1e9:.2f} GB are free again")
    console.result([name], {"removed": name, "folder": str(folder), "bytes": freed, "warnings": console.warnings})


def _folder(name: str) -> Path:
    """Where a model is; NotFound where it is not on this machine, or only in part."""
    from pmagic.bases import card

    if name.startswith("."):
        raise NotFound(f"there is no model {name!r}", "see `pmagic models list`")
    if not card.place_of(name).is_dir():
        found = card.find(name)
        place = found.folder or card.place_of(found.repo or name)
    else:
        place = card.place_of(name)
    part = place.with_name(place.name + ".part")
    for each in (place, part):
        if each.is_dir():
            return each
    raise NotFound(f"{name} is not on this machine", "see `pmagic models list`")


def _learned_on(entry: "Entry", name: str) -> bool:
    return entry.manifest is not None and entry.manifest.base == name


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
