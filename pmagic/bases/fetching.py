"""Downloads a base and its observer from the hub: safetensors and texts only, told first, all or nothing.

The only module that uses the network, and only when `pmagic models pull` asks for it.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pmagic.bases.card import PARTS, Card, find, place_of
from pmagic.errors import Incompatible, NotFound, StorageFailed, UsageProblem, WeightsMissing
from pmagic.library import durable

_TEXTS = (".json", ".txt")
_CONVERTER = "SFconvertbot"  # the hub's own robot: offers safetensors of old repositories as a pull request


@dataclass(frozen=True)
class Order:
    """What one repository's download would fetch: told to the person before it starts."""

    repo: str
    revision: str  # a commit, so that what was told is what is fetched
    licence: str
    files: tuple[str, ...]
    size: int  # bytes
    place: Path


def orders(name: str) -> tuple[Card, list[Order]]:
    """What is missing of the base and its observer. Asks the hub, downloads nothing."""
    card = find(name)
    if card.repo is None:
        raise UsageProblem(
            f"the base {card.name!r} is on this machine, there is nothing to pull", f"use it with --base {card.name}"
        )
    wanted = []
    if card.folder is None:
        wanted.append(_order(card.repo, _base_files, card.licence))
    if not isinstance(card.clip, Path):
        wanted.append(_order(card.clip, _observer_files, "see its page"))
    return card, wanted


def fetch(order: Order, *, show: bool = True) -> Path:
    """Downloads beside the place (kept when interrupted, then resumed) and publishes in one rename.

    show: whether the hub client draws its progress on stderr.
    """
    import huggingface_hub

    if not show:
        huggingface_hub.utils.disable_progress_bars()

    part = order.place.with_name(order.place.name + ".part")
    with durable.storing(f"the base {order.repo}"):
        durable.make_folder(order.place.parent)
        free = shutil.disk_usage(order.place.parent).free
    if free < order.size:
        raise StorageFailed(
            f"{order.repo} needs {order.size / 1e9:.1f} GB, {order.place.parent} has {free / 1e9:.1f} GB free",
            "free some space, or set PMAGIC_HOME to a larger disk",
        )
    try:
        huggingface_hub.snapshot_download(
            order.repo, revision=order.revision, local_dir=part, allow_patterns=list(order.files)
        )
    except Exception as error:
        raise _in_words(error, order.repo) from error
    for name in order.files:
        if not (part / name).is_file():
            raise WeightsMissing(f"{order.repo}: {name} did not arrive", "run the command again: it resumes")
    with durable.storing(f"the base {order.repo}"):
        shutil.rmtree(part / ".cache", ignore_errors=True)  # the hub client's notes, of no use once all is here
        durable.rename_new(part, order.place)
        durable.sync_folder(order.place.parent)
    return order.place


def _order(repo: str, choose: Callable[[Sequence[str]], list[str]], licence: str) -> Order:
    import huggingface_hub

    try:
        hub = huggingface_hub.HfApi()
        info = hub.model_info(repo, files_metadata=True)
        chosen = choose([file.rfilename for file in info.siblings or ()])
        if not chosen:
            info = hub.model_info(repo, files_metadata=True, revision=_converted(hub, repo))
            chosen = choose([file.rfilename for file in info.siblings or ()])
    except Exception as error:
        raise _in_words(error, repo) from error
    if not chosen:
        raise Incompatible(f"{repo} offers no safetensors weights in diffusers' layout", "choose another base")
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    stated = getattr(info.card_data, "license", None) or licence
    size = sum(sizes[name] for name in chosen)
    return Order(repo, info.sha or "main", str(stated), tuple(chosen), size, place_of(repo))


def _converted(hub: object, repo: str) -> str:
    """The revision of the robot's pull request with safetensors, or `main`."""
    for each in hub.get_repo_discussions(repo, author=_CONVERTER, discussion_type="pull_request"):
        return each.git_reference or "main"
    return "main"


def _base_files(names: Sequence[str]) -> list[str]:
    """One set of weights for each part (full precision before fp16) and the texts; [] where a part has none."""
    weights = [_one_of(names, part) for part in PARTS]
    if not all(weights) or "model_index.json" not in names:
        return []
    folders = (*PARTS, "tokenizer", "scheduler", "feature_extractor")
    texts = [name for name in names if name.endswith(_TEXTS) and name.count("/") == 1 and name.split("/")[0] in folders]
    return sorted({"model_index.json", *weights, *texts})


def _one_of(names: Sequence[str], part: str) -> str:
    stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
    for candidate in (f"{part}/{stem}.safetensors", f"{part}/{stem}.fp16.safetensors"):
        if candidate in names:
            return candidate
    return ""


def _observer_files(names: Sequence[str]) -> list[str]:
    if "model.safetensors" not in names:
        return []
    return sorted(name for name in names if name == "model.safetensors" or ("/" not in name and name.endswith(_TEXTS)))


def _in_words(error: Exception, repo: str) -> Exception:
    """The hub client's many exceptions as the few things a person can act on; a defect stays what it is."""
    from huggingface_hub import errors as hub

    if isinstance(error, hub.GatedRepoError):
        return WeightsMissing(
            f"{repo} asks for consent first", f"accept its terms at https://huggingface.co/{repo}, then `hf auth login`"
        )
    if isinstance(error, hub.RepositoryNotFoundError):
        return NotFound(f"the hub has no public repository {repo!r}", "check the spelling of owner/repo")
    if isinstance(error, (hub.HfHubHTTPError, ConnectionError, TimeoutError)) or _of_the_net(error):
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        return WeightsMissing(
            f"the hub cannot be reached{offline}, {repo} is not on this machine",
            "check the connection and run the command again, or use `--base mini`, which works at once",
        )
    return error


def _of_the_net(error: BaseException | None) -> bool:
    """Whether the error, or what caused it, comes from the HTTP client or says that nothing is cached."""
    from huggingface_hub import errors as hub

    while error is not None:
        if isinstance(error, (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled)):
            return True
        if type(error).__module__.split(".")[0] in ("httpx", "httpcore", "requests", "urllib3"):
            return True
        error = error.__cause__ or error.__context__
    return False
