"""`pmagic models`: lists, downloads and removes bases, vision models and face packs."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmagic import atomic_io, settings, shelf
from pmagic.cli import names
from pmagic.cli.console import Console, table
from pmagic.cli.options import AsJson, Quiet
from pmagic.errors import NotFound, PmagicError, UsageError
from pmagic.library.store import Library

if TYPE_CHECKING:
    from pmagic.bases.fetching import DownloadPlan
    from pmagic.library.store import Entry

app = typer.Typer(
    help="List, download and remove base models, vision models, face packs and adapters.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command("list")
def list_models(quiet: Quiet = False, as_json: AsJson = False) -> None:
    """List the known bases, vision models, face packs and adapters, and which of them are here.

    \b
    pmagic models list
    pmagic models list -q    (only the names of those that are here)
    """
    from pmagic.bases import adapter_files, fetching, model_spec, removal

    removal.clear_left()
    documents: list[dict[str, object]] = []
    for name in [*shelf.names("bases.known"), *_pulled_bases()]:
        try:
            each = model_spec.resolve(name)
            missing = model_spec.missing_parts(each)
        except PmagicError as problem:  # a folder that cannot be used must not hide the others
            documents.append(_model_entry(name, missing=[problem.what], licence=f"cannot be used: {problem.what}"))
            continue
        documents.append(
            _model_entry(
                name,
                missing=missing,
                folder=each.folder,
                repo=each.repo,
                size_gb=each.size_gb,
                licence=each.licence,
                needs=[_short_name(what) for what in (each.clip, each.clipseg, each.faces) if not _is_own(what)],
            )
        )
    for name, size in (fetching.HUB_OBSERVERS | fetching.PACKS).items():
        place = model_spec.find_observer(name)
        documents.append(
            _model_entry(
                name,
                missing=[] if place is not None else ["the weights"],
                folder=place,
                repo=name,
                size_gb=size / 1e9,
                licence=fetching.LICENCES[name],
            )
        )
    for name, size in adapter_files.DOWNLOADS.items():
        place, adapter = model_spec.place_of(name), adapter_files.KNOWN.get(name)
        used = "for all adapters" if adapter is None else f"for {adapter.base}"
        documents.append(
            _model_entry(
                name,
                missing=[] if place.is_dir() else ["the weights"],
                folder=place if place.is_dir() else None,
                repo=adapter_files.REPO,
                size_gb=size / 1e9,
                licence=f"{adapter_files.LICENCE}, {used}",
                needs=[] if adapter is None else [adapter_files.ENCODER],
            )
        )
    rows = [
        (
            str(each["name"]),
            "yes" if each["here"] else "no",
            f"{each['size_gb']:.2g} GB" if each["size_gb"] is not None else "-",
            str(each["licence"]).partition(" (")[0],  # --json has the whole text, and what a base needs besides
        )
        for each in documents
    ]
    lines = table(rows, ("MODEL", "HERE", "SIZE", "LICENCE"))
    here = [str(each["name"]) for each in documents if each["here"]]
    Console(quiet=quiet, as_json=as_json).result(here if quiet else lines, documents)


@app.command("pull")
def pull(
    name: Annotated[
        str,
        typer.Argument(
            help="sd14, sd15, sdxl, dreamlike, a hub id, buffalo_l, antelopev2, ip-adapter, ...",
            autocompletion=names.pullable,
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would be downloaded, with size and licence.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Use no network: only check whether everything is here.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Download a base with CLIP and CLIPSeg, a face pack, or an adapter. Size and licence are shown first.

    Learning people also needs a face pack. Its licence allows less, so it is downloaded only by its own name.
    After an interruption the same command continues; a face pack starts again. No pickle is downloaded. SHA-256 sums
    are compared if the hub states them.

    \b
    pmagic models pull sd14
    pmagic models pull buffalo_l
    pmagic models pull sd14 --dry-run
    """
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read by the hub's client when it is imported, which is now

    from pmagic.bases import fetching, removal

    console = Console(quiet=quiet, as_json=as_json)
    removal.clear_left()
    plans, besides = fetching.plan_downloads(name), fetching.besides(name)
    if dry_run:
        _print_plan(console, name, plans, besides)
        return
    for plan in plans:
        # A warning, because size and licence must be shown without a terminal, too.
        console.warn(f"{plan.repo}: {plan.size / 1e9:.2f} GB to {plan.place}, licence: {plan.licence}")
    for plan in besides:
        console.warn(
            f"learning people also needs {plan.repo}, {plan.size / 1e9:.2f} GB, licence: {plan.licence}; this command "
            f"does not download it. Run `pmagic models pull {plan.repo}`, or learn without it: `--recipe reference`"
        )
    fetched = []
    for plan in plans:
        fetching.fetch(plan, show=console.talks)
        fetched.append(_plan_entry(plan))
    if not plans:
        console.say(f"{name} is here already")
    console.result(
        [str(each["folder"]) for each in fetched],
        {
            "base": name,
            "fetched": fetched,
            "besides": [plan.repo for plan in besides],
            "warnings": console.warnings,
        },
    )


@app.command("path")
def path(
    name: Annotated[
        str | None,
        typer.Argument(help="A model's name (default: the folder of all models).", autocompletion=names.bases),
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
    name: Annotated[str, typer.Argument(help="sd14, a hub id, a pack, ...", autocompletion=names.removable)],
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Remove a downloaded model. Personas learned on it stay, but cannot be drawn without it.

    \b
    pmagic models rm dreamlike
    """
    from pmagic.bases import removal

    console = Console(quiet=quiet, as_json=as_json)
    left = removal.left_of(_place(name))
    with atomic_io.storing(f"the removal of what an earlier one has left of {name}"):
        freed = sum(map(removal.size, left))
        for each in left:
            atomic_io.erase(each)
    removal.clear_left()
    if left and not _folders(name):  # that removal is at its end now
        _report_removed(console, name, _place(name), freed)
        return
    folder = _folder(name)
    if folder.parent != settings.models_dir():
        raise UsageError(f"{name!r} was not pulled: it is in {folder}", "only pulled models can be removed")
    freed += removal.size(folder)
    dependents = [str(each.address) for each in Library(settings.library_dir()).entries() if _learned_on(each, name)]
    if dependents:
        console.warn(f"{', '.join(dependents)} cannot be drawn before {name} is pulled again")
    removal.remove(folder)
    _report_removed(console, name, folder, freed)


def _report_removed(console: Console, name: str, folder: Path, freed: int) -> None:
    console.say(f"{freed / 1e9:.2f} GB are free again")
    console.result([name], {"removed": name, "folder": str(folder), "bytes": freed, "warnings": console.warnings})


def _print_plan(
    console: Console, name: str, plans: "Sequence[DownloadPlan]", besides: "Sequence[DownloadPlan]"
) -> None:
    """Prints what this pull would download, and what learning needs from other pulls."""
    total = sum(plan.size for plan in (*plans, *besides))
    document = {
        "base": name,
        "would_fetch": [_plan_entry(plan) for plan in plans],
        "besides": [_plan_entry(plan) for plan in besides],
        "bytes": sum(plan.size for plan in plans),
        "bytes_with_besides": total,
    }
    rows = [
        (plan.repo, f"{plan.size / 1e9:.2f} GB", plan.licence, f"pmagic models pull {command}")
        for command, several in ((name, plans), *((each.repo, [each]) for each in besides))
        for plan in several
    ]
    lines = table(rows, ("MODEL", "SIZE", "LICENCE", "FETCHED BY")) if rows else []
    lines.append(f"{total / 1e9:.2f} GB in all" if rows else f"{name} is here already")
    console.result(lines, document)


def _plan_entry(plan: "DownloadPlan") -> dict[str, object]:
    return {"repo": plan.repo, "bytes": plan.size, "licence": plan.licence, "folder": str(plan.place)}


def _folder(name: str) -> Path:
    """The folder of a model, or of its unfinished download. Raises NotFound where there is neither."""
    for each in _folders(name):
        return each
    raise NotFound(f"{name} is not on this machine", "see `pmagic models list`")


def _folders(name: str) -> list[Path]:
    place = _place(name)
    return [each for each in (place, place.with_name(place.name + ".part")) if each.is_dir()]


def _place(name: str) -> Path:
    """Where a model is, or would be. Raises NotFound for a name that no model has."""
    from pmagic.bases import model_spec

    if name.startswith("."):
        raise NotFound(f"there is no model {name!r}", "see `pmagic models list`")
    if model_spec.place_of(name).is_dir():
        return model_spec.place_of(name)
    found = model_spec.resolve(name)
    return found.folder or model_spec.place_of(found.repo or name)


def _learned_on(entry: "Entry", name: str) -> bool:
    return entry.manifest is not None and entry.manifest.base == name


def _pulled_bases() -> list[str]:
    """Hub ids of bases that were pulled and have no short name."""
    known = {shelf.take("bases.known", name).SPEC.repo for name in shelf.names("bases.known")}
    try:
        folders = sorted(settings.models_dir().iterdir())
    except FileNotFoundError:
        return []
    ids = [each.name.replace("--", "/", 1) for each in folders if (each / "model_index.json").is_file()]
    return [each for each in ids if each not in known]


def _model_entry(name: str, *, missing: list[str], **facts: object) -> dict[str, object]:
    usual = {"folder": None, "repo": None, "size_gb": None, "licence": None, "needs": []}
    return {"name": name, "here": not missing, "missing": missing, **usual, **facts}


def _is_own(vision_model: str | Path) -> bool:
    """Whether a vision model belongs to its base, instead of being downloaded separately."""
    return isinstance(vision_model, Path) and vision_model.parent != settings.models_dir()


def _short_name(vision_model: str | Path) -> str:
    return Path(vision_model).name.rpartition("--")[2]
