"""Downloads bases and observers from the hub, and face packs. No pickles; a download is complete or has not happened.

It uses the network only when a command that downloads calls it.
"""

import contextlib
import hashlib
import io
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pmagic import atomic_io, network
from pmagic.bases import adapter_files, checksums, file_kinds, kinds
from pmagic.bases import model_spec as specs
from pmagic.bases.kinds import SD, SDXL, Architecture
from pmagic.bases.model_spec import CLIP_REPO, CLIPSEG_REPO, HUB_OBSERVERS, PACKS, find_observer, place_of, resolve
from pmagic.errors import Incompatible, NotFound, PmagicError, StorageFailed, UsageError, WeightsMissing

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

ChooseFiles = Callable[[Sequence[str]], list[str]]
_TEXTS = (".json", ".txt")
_OBSERVER = "model.safetensors"  # the weights of an observer, in the hub's repository
HUB, PACKS_HOST = "the hub", "insightface's server"  # the servers' names in messages
PACK_LICENCE = "non-commercial research only (insightface's packs of pretrained models)"
LICENCES = {
    CLIP_REPO: "MIT",
    CLIPSEG_REPO: "Apache-2.0",
    **dict.fromkeys(PACKS, PACK_LICENCE),
    **dict.fromkeys(adapter_files.DOWNLOADS, adapter_files.LICENCE),
}
_IN_PACK = re.compile(r"([\w-]+/)?[\w-]+\.onnx", re.ASCII)  # in one folder at most
_CONVERTER = "SFconvertbot"  # the hub's own robot: offers safetensors of old repositories as a pull request


@dataclass(frozen=True, kw_only=True)
class DownloadPlan:
    """What a download of one repository would fetch; the person sees it before it starts."""

    repo: str
    revision: str  # a commit, so that exactly the announced files are fetched
    licence: str
    files: tuple[str, ...]
    size: int  # bytes
    place: Path
    digests: Mapping[str, str] = field(default_factory=dict)  # SHA-256 by file name, where the hub states it


def plan_downloads(name: str) -> list[DownloadPlan]:
    """The missing downloads for a base and its two hub observers, for one such observer, a face pack, or an adapter.

    It asks the hub but downloads no weights. A base's plan leaves out its face pack, whose licence is stricter (see
    `besides`). Raises Incompatible for a repository that is not a Stable Diffusion in safetensors.
    """
    if name in PACKS:
        return _pack(name)
    if name in HUB_OBSERVERS:
        return [] if find_observer(name) is not None else [_plan(name, _observer_files, LICENCES[name], _OBSERVER)]
    if name in adapter_files.DOWNLOADS:
        return _adapter(name)
    spec = resolve(name)
    if spec.repo is None:
        raise UsageError(
            f"the base {spec.name!r} is on this machine, there is nothing to pull", f"use it with --base {spec.name}"
        )
    plans = []
    if spec.folder is None:
        plans.append(_plan(spec.repo, None, spec.licence))
    for observer in (spec.clip, spec.clipseg):
        if not isinstance(observer, Path):
            plans.append(_plan(observer, _observer_files, LICENCES.get(observer, "see its page"), _OBSERVER))
    if not plans:
        specs.require_weights(spec)  # a damaged download is reported, not overwritten
    return plans


def besides(name: str) -> list[DownloadPlan]:
    """The plan of a base's face pack, which learning people needs and `plan_downloads` leaves to the person."""
    if name in PACKS or name in HUB_OBSERVERS or name in adapter_files.DOWNLOADS:
        return []
    faces = resolve(name).faces
    return _pack(faces) if isinstance(faces, str) else []


def fetch(plan: DownloadPlan, *, show: bool = True) -> Path:
    """Downloads into a folder beside the final place, and publishes it in one rename. A later call resumes it.

    show: whether the hub client draws its progress on stderr.
    """
    part = plan.place.with_name(plan.place.name + ".part")
    with atomic_io.storing(plan.repo):
        atomic_io.make_folder(plan.place.parent)
        free = shutil.disk_usage(plan.place.parent).free
    needed = plan.size * (2 if plan.repo in PACKS else 1)  # a pack needs room for its archive, too
    if free < needed:
        raise StorageFailed(
            f"{plan.repo} needs {needed / 1e9:.1f} GB, {plan.place.parent} has {free / 1e9:.1f} GB free",
            "free some space, or set PMAGIC_HOME to a larger disk",
        )
    folder = _fetch_pack(plan, part, show=show) if plan.repo in PACKS else _fetch_snapshot(plan, part, show=show)
    with atomic_io.storing(plan.repo):
        checksums.write(folder, plan.digests)
        atomic_io.rename_new(folder, plan.place)
        atomic_io.sync_folder(plan.place.parent)
        shutil.rmtree(part, ignore_errors=True)
    return plan.place


def _fetch_snapshot(plan: DownloadPlan, part: Path, *, show: bool) -> Path:
    import huggingface_hub

    if not show:
        huggingface_hub.utils.disable_progress_bars()
        huggingface_hub.utils.logging.set_verbosity_error()
    with _hub_errors(HUB, plan.repo, kept="the files that have arrived; the same command continues the download"):
        huggingface_hub.snapshot_download(
            plan.repo, revision=plan.revision, local_dir=part, allow_patterns=list(plan.files)
        )
    for name in plan.files:
        if not (part / name).is_file():
            raise WeightsMissing(f"{plan.repo}: {name} did not arrive", "run the command again: it resumes")
        _require_digest(part / name, plan.digests.get(name), f"{plan.repo}: {name}")
    shutil.rmtree(part / ".cache", ignore_errors=True)  # the hub client's own notes
    return part


def _require_digest(path: Path, expected: str | None, what: str) -> None:
    """WeightsMissing for a file with another SHA-256, which is removed so that the next pull fetches it again."""
    if expected is None:
        return
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected:
        path.unlink()
        raise WeightsMissing(f"{what} arrived damaged: its SHA-256 is not the hub's", "run the command again")


def _fetch_pack(plan: DownloadPlan, part: Path, *, show: bool) -> Path:
    """Downloads with insightface's own function, which cannot resume. Returns the folder with the ONNX files."""
    if network.offline():
        raise _offline(PACKS_HOST, plan.repo)
    from insightface.utils import storage

    path = part / f"{plan.repo}.zip"
    quiet = contextlib.nullcontext() if show else contextlib.redirect_stderr(io.StringIO())
    with _hub_errors(PACKS_HOST, plan.repo), contextlib.redirect_stdout(io.StringIO()), quiet:  # stdout is for results
        storage.download_file(storage.model_zoo_download_url(path.name), path=str(path), overwrite=True)
    try:
        with atomic_io.storing(plan.repo):
            return _unpack(plan, path)
    except (RuntimeError, NotImplementedError, zlib.error, zipfile.BadZipFile, EOFError) as error:
        raise WeightsMissing(f"{plan.repo} did not arrive complete: {error}", "run the command again") from error


def _unpack(plan: DownloadPlan, path: Path) -> Path:
    """Unpacks only the ONNX files of a pack's archive, each under its plain name. Returns their folder.

    The archive's SHA-256 must be the known one (see checksums.PACKS).
    """
    if checksums.sha256(path) != checksums.PACKS[plan.repo]:
        path.unlink()
        raise WeightsMissing(
            f"the archive of {plan.repo} is damaged, or is another archive: its SHA-256 is not the known one",
            "run the command again; if that does not help, a newer pmagic may know the new archive",
        )
    folder = path.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)  # left by a pull that was interrupted here
    folder.mkdir()
    with zipfile.ZipFile(path) as archive:
        members = [each for each in archive.infolist() if each.filename.endswith(".onnx")]
        if not members:
            raise WeightsMissing(f"{plan.repo} arrived without ONNX files", "run the command again")
        for member in members:
            if not _IN_PACK.fullmatch(member.filename) or stat.S_ISLNK(member.external_attr >> 16):
                raise _strange_pack(plan, f"a file {member.filename!r}")
        if sum(each.file_size for each in members) > 2 * plan.size:
            raise _strange_pack(plan, f"more than {2 * plan.size / 1e9:.1f} GB")
        for member in members:
            with archive.open(member) as source, (folder / Path(member.filename).name).open("xb") as target:
                shutil.copyfileobj(source, target)
    return folder


def _strange_pack(plan: DownloadPlan, what: str) -> WeightsMissing:
    return WeightsMissing(f"the archive of {plan.repo} holds {what}, and is not unpacked", "try again another day")


def _pack(name: str) -> list[DownloadPlan]:
    place = place_of(name)
    return (
        []
        if place.is_dir()
        else [
            DownloadPlan(
                repo=name, revision="model-zoo", licence=PACK_LICENCE, files=("*.onnx",), size=PACKS[name], place=place
            )
        ]
    )


def _adapter(name: str) -> list[DownloadPlan]:
    """The missing downloads for an adapter: its file, and the image encoder that all known ones share."""
    wanted = [each for each in dict.fromkeys((name, adapter_files.ENCODER)) if not place_of(each).is_dir()]
    plans = []
    for each in wanted:
        files = adapter_files.files_of(each)
        plan = _plan(
            adapter_files.REPO,
            lambda names, files=files: files if set(files) <= set(names) else [],
            adapter_files.LICENCE,
            " and ".join(files),
        )
        plans.append(replace(plan, place=place_of(each)))
    return plans


def _plan(repo: str, choose: ChooseFiles | None, licence: str, wanted: str = "") -> DownloadPlan:
    """choose: picks the files to fetch from all names; None for those of a base. wanted: what it looks for, in words.

    Raises Incompatible where there are none, or for a base of an unknown architecture.
    """
    import huggingface_hub

    with _hub_errors(HUB, repo):
        hub = huggingface_hub.HfApi()  # imported only now: a value of HF_ENDPOINT that is no address fails here
        info = hub.model_info(repo, files_metadata=True)
    architecture = _architecture_of(repo, info) if choose is None else SD
    choose = choose or partial(_base_files, architecture)
    names = [file.rfilename for file in info.siblings or ()]
    files = choose(names)
    if not files:
        with _hub_errors(HUB, repo):
            info = hub.model_info(repo, files_metadata=True, revision=_converted_revision(hub, repo))
        files = choose([file.rfilename for file in info.siblings or ()])
    if not files:
        lacks = kinds.lacks({part: kinds.lack(_inside(names, part), part) for part in architecture.parts})
        why, advice = (f"it has no {wanted}", "see its page on the hub") if wanted else (lacks, "choose another base")
        raise Incompatible(f"{repo} offers no weights that can be read: {why}", advice)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    licence = getattr(info.card_data, "license", None) or licence
    size = sum(sizes[name] for name in files)
    sums = {file.rfilename: file.lfs.sha256 for file in info.siblings or () if file.lfs is not None}
    digests = {name: sums[name] for name in files if name in sums}
    return DownloadPlan(
        repo=repo,
        revision=info.sha or "main",
        licence=str(licence),
        files=tuple(files),
        size=size,
        place=place_of(repo),
        digests=digests,
    )


def _architecture_of(repo: str, info: "ModelInfo") -> Architecture:
    """The architecture of a repository; Incompatible, before gigabytes are fetched, where it has none."""
    import huggingface_hub

    names = [file.rfilename for file in info.siblings or ()]
    if kinds.INDEX not in names:
        single = next((name for name in names if "/" not in name and name.endswith(file_kinds.WEIGHT_ENDINGS)), "")
        why = f"it holds {single}, and no {kinds.INDEX}" if single else f"it has no {kinds.INDEX}"
        raise Incompatible(f"{repo} is not a base in diffusers' layout: {why}", "choose another base")
    with tempfile.TemporaryDirectory() as folder:
        with _hub_errors(HUB, repo):
            huggingface_hub.hf_hub_download(repo, kinds.INDEX, revision=info.sha or "main", local_dir=folder)
        return kinds.require_stable_diffusion(kinds.read_index(Path(folder)), repo)


def _converted_revision(hub: "HfApi", repo: str) -> str:
    """The revision of the hub robot's pull request with safetensors, or `main`."""
    for each in hub.get_repo_discussions(repo, author=_CONVERTER, discussion_type="pull_request"):
        return each.git_reference or "main"
    return "main"


def _base_files(architecture: Architecture, names: Sequence[str]) -> list[str]:
    """One set of weights for each part and the texts; [] where a part has none.

    Full precision comes before fp16; of Stable Diffusion XL, whose full precision is 14 GB, fp16 comes first.
    """
    weights: list[str] = []
    for part in architecture.parts:
        inside = _inside(names, part)
        if kinds.lack(inside, part):
            return []
        weights += [f"{part}/{name}" for name in kinds.weight_files(inside, part, half=architecture is SDXL)]
    folders = (*architecture.parts, *architecture.tokenizers, "scheduler", "feature_extractor")
    texts = [
        name
        for name in names
        if name.endswith(_TEXTS) and ".index." not in name and name.count("/") == 1 and name.split("/")[0] in folders
    ]
    return sorted({kinds.INDEX, *weights, *texts})


def _inside(names: Sequence[str], part: str) -> list[str]:
    """The files of a part's folder, by their plain names."""
    return [name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/") and name.count("/") == 1]


def _observer_files(names: Sequence[str]) -> list[str]:
    if _OBSERVER not in names:
        return []
    return sorted(name for name in names if name == _OBSERVER or ("/" not in name and name.endswith(_TEXTS)))


@contextlib.contextmanager
def _hub_errors(host: str, what: str, kept: str = "") -> Iterator[None]:
    """Turns what a client raises while it asks `host` for `what` into an error that a person can act on.

    kept: what remains of a download that breaks off, for the message.
    Raises WeightsMissing, NotFound, or StorageFailed for a disk that is full or cannot be written.
    """
    try:
        yield
    except PmagicError:
        raise
    except Exception as error:
        local = network.local_failure(error, _families())
        if local is not None:
            with atomic_io.storing(what):
                raise local from error
        raise _as_problem(error, host, what, kept) from error


def _as_problem(error: Exception, host: str, what: str, kept: str) -> PmagicError:
    from huggingface_hub import errors as hub

    if isinstance(error, hub.GatedRepoError):
        return WeightsMissing(
            f"{what} asks for consent first", f"accept its terms at https://huggingface.co/{what}, then `hf auth login`"
        )
    if isinstance(error, (hub.RepositoryNotFoundError, hub.HFValidationError)):
        return NotFound(f"the hub has no public repository {what!r}", "check the spelling of owner/repo")
    if network.offline():
        return _offline(host, what)
    of_hub = ("HF_ENDPOINT",) if host == HUB else ()
    variables = "".join(f" and {name}" for name in network.variables(*of_hub))
    again = f"check the connection{variables} and run the command again, or use `--base mini`, which works at once"
    response = getattr(error, "response", None)
    if response is not None:
        answer = f"{response.status_code} {getattr(response, 'reason_phrase', '')}".strip()
        return WeightsMissing(f"{host} answered {answer} when asked for {what}", again, kept)
    failure = network.failure(error, _families())
    if failure:
        return WeightsMissing(f"{host} cannot be reached ({failure}), {what} is not on this machine", again, kept)
    # For example, a login page answered instead of the hub, or the client does not know the proxy's protocol.
    return WeightsMissing(
        f"{what} was not fetched from {host}: its client failed with {type(error).__name__}: {error}", again, kept
    )


def _offline(host: str, what: str) -> WeightsMissing:
    return WeightsMissing(
        f"{host} cannot be reached: --offline is given or HF_HUB_OFFLINE is set, {what} is not here",
        "run the command again without them, or use `--base mini`, which works at once",
    )


def _families() -> network.Families:
    """The exception classes of the hub's client, and of the HTTP client that it is built on."""
    from huggingface_hub import errors as hub

    usual = (object, BaseException, Exception, OSError)
    own = (getattr(hub, name, None) for name in ("LocalEntryNotFoundError", "RevisionResolutionError"))
    return (*(each for each in hub.HfHubHTTPError.__mro__ if each not in usual), *filter(None, own))
