"""Labelled Faces in the Wild: 13,233 photos of 5,749 people, a folder each. Only people with several photos are taken.

Three photos are learned from, the least that the paper's few-shot people have; a fourth is compared with.
"""

import re
import shutil
import tarfile
import zlib
from pathlib import Path

from pmagic import atomic_io, datasets, network, settings
from pmagic.datasets import Individual
from pmagic.errors import UsageError, WeightsMissing

WANTED = "a folder of LFW's people, Name_Surname/Name_Surname_0001.jpg (or one that holds lfw/ or lfw_funneled/)"
WHERE = "without --root it is fetched: `pip install scikit-learn`, then the same command without --root"
PROMPTS = None
LEARNED = 3
_FOLDERS = ("lfw", "lfw_funneled", "lfw-deepfunneled", "lfw_home/lfw_funneled")
_NUMBER = re.compile(r"_\d{4}")


def people(root: Path | None) -> list[Individual]:
    """Everyone with more than three photos. Raises NotFound for another layout, and as `fetch` without a root."""
    root = fetch() if root is None else datasets.require_folder(root, WANTED, WHERE)
    photos_by_name = _find(root)
    if photos_by_name is None:
        raise datasets.wrong_layout(root, WANTED, WHERE)
    enough = {name: photos for name, photos in photos_by_name.items() if len(photos) > LEARNED}
    if not enough:
        raise UsageError(
            f"nobody in {root} has more than {LEARNED} photos",
            f"give the whole data set: {LEARNED} photos are learned from and one is kept to compare with",
        )
    return [
        Individual(
            name=name,
            learned=tuple(map(datasets.from_file, photos[:LEARNED])),
            unseen=tuple(map(datasets.from_file, photos[LEARNED:][:1])),
        )
        for name, photos in enough.items()
    ]


def left_out(root: Path | None) -> list[str]:
    """How many people have too few photos."""
    root = _photos() if root is None else datasets.require_folder(root, WANTED, WHERE)
    photos_by_name = _find(root) or {}
    few = sum(len(photos) <= LEARNED for photos in photos_by_name.values())
    return [f"{few} people with fewer than {LEARNED + 1} photos"] if few else []


def fetches() -> str:
    """The download, "" where LFW is here. Raises WeightsMissing without scikit-learn, or with HF_HUB_OFFLINE set."""
    if _photos().is_dir() and not _archive().exists():
        return ""
    if network.offline():
        raise WeightsMissing(
            "LFW is not on this machine, and HF_HUB_OFFLINE is set", f"unset it to fetch LFW, or give --root, {WANTED}"
        )
    try:
        import sklearn.datasets  # noqa: F401  # pyright: ignore[reportMissingImports]  # the extra `lfw`
    except ImportError as error:
        raise WeightsMissing(
            "LFW is fetched by scikit-learn, which is not installed",
            "install it with `pip install scikit-learn`, or give --root, " + WANTED,
        ) from error
    return "LFW with scikit-learn, about 200 MB with checksums"


def fetch() -> Path:
    """Downloads the data set with scikit-learn, beside the models. Raises as `fetches`, or where the download fails."""
    photos, home = _photos(), _photos().parents[1]
    if not fetches():
        return photos
    from sklearn.datasets import fetch_lfw_people  # pyright: ignore[reportMissingImports]  # the extra `lfw`

    with atomic_io.storing("LFW"):
        atomic_io.make_folder(home)
        if photos.is_dir():  # an incomplete one, which scikit-learn would accept as complete
            shutil.rmtree(photos)
    try:
        # Only the files are needed, so it reads one corner of the photos of the person who has most.
        corner = (slice(0, 8), slice(0, 8))
        fetch_lfw_people(data_home=str(home), min_faces_per_person=500, resize=None, slice_=corner)
    except (*network.ERRORS, ValueError, EOFError, tarfile.TarError, zlib.error) as error:
        local = network.local_failure(error)
        if local is not None:
            with atomic_io.storing("LFW"):
                raise local from error
        why = network.failure(error)
        what = f"the server of LFW cannot be reached ({why})" if why else f"LFW did not arrive whole: {error}"
        variables = "".join(f" and {name}" for name in network.variables())
        raise WeightsMissing(
            what, f"check the connection{variables} and run the command again, or give --root, {WANTED}"
        ) from error
    shutil.rmtree(photos.with_name("joblib"), ignore_errors=True)  # its cache of decoded photos, which is a pickle
    return photos


def _photos() -> Path:
    return settings.models_dir() / "datasets" / "lfw_home" / "lfw_funneled"


def _archive() -> Path:
    """The archive that scikit-learn downloads, and removes once it is unpacked."""
    return _photos().with_name("lfw-funneled.tgz")


def _find(root: Path) -> dict[str, list[Path]] | None:
    """Photos by person of the first folder with LFW's layout: a usual one, or any inside `root`; None without one."""
    usual = [root, *(each for name in _FOLDERS if (each := root / name).is_dir())]
    return next((each for each in map(_people, (*usual, *datasets.tree(root))) if each), None)


def _people(folder: Path) -> dict[str, list[Path]]:
    """Photos by person; empty where `folder` has another layout."""
    inside = datasets.folders_of(folder) if folder.is_dir() else []
    named = {
        each.name: [
            photo
            for photo in datasets.photos_of(each)
            if photo.stem.startswith(each.name) and _NUMBER.fullmatch(photo.stem[len(each.name) :])
        ]
        for each in inside
    }
    return {name: photos for name, photos in named.items() if photos}
