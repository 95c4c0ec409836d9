"""A base that another program has fetched lies in the hub's own cache, and is used from there; nothing is written."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from typer.testing import CliRunner

from pmagic.bases import fetching, hub_cache, loading, model_spec
from pmagic.cli.app import app
from pmagic.errors import WeightsMissing

pytest_plugins = ["tiny", "tiny_xl"]

runner = CliRunner()
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "owner/portraits"


def store(folder: Path, repo: str) -> Path:
    """Put a folder's files into the cache as the hub's client does: contents beside, and links in a snapshot."""
    place = Path(os.environ["HF_HOME"]) / "hub" / f"models--{repo.replace('/', '--')}"
    snapshot = place / "snapshots" / COMMIT
    for number, path in enumerate(sorted(each for each in folder.rglob("*") if each.is_file())):
        blob, link = place / "blobs" / str(number), snapshot / path.relative_to(folder)
        for each in (blob, link):
            each.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blob)
        link.symlink_to(blob)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    return snapshot


@pytest.fixture(params=["sd1", "fp16", "sdxl"])
def layout(request: pytest.FixtureRequest, tiny_folders: dict[str, Path], xl_folder: Path) -> Path:
    return xl_folder if request.param == "sdxl" else tiny_folders[request.param]


def test_it_is_found_where_the_hubs_client_finds_it(layout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants, try_to_load_from_cache

    snapshot = store(layout, REPO)
    cache = str(Path(os.environ["HF_HOME"]) / "hub")
    assert try_to_load_from_cache(REPO, "model_index.json", cache_dir=cache) == str(snapshot / "model_index.json")
    assert constants.HF_HUB_CACHE.endswith("hub")
    spec = model_spec.resolve(REPO)
    assert spec.folder == snapshot and spec.name == REPO
    monkeypatch.setenv("HF_HUB_CACHE", cache)
    monkeypatch.setenv("HF_HOME", "/nowhere")
    assert model_spec.resolve(REPO).folder == snapshot
    monkeypatch.delenv("HF_HUB_CACHE")
    assert model_spec.resolve(REPO).folder is None


def test_it_is_opened_with_an_observer_from_the_cache(layout: Path) -> None:
    snapshot = store(layout, REPO)
    (snapshot / "pmagic.toml").unlink()
    with pytest.raises(WeightsMissing, match="the observer openai/clip-vit-base-patch32"):
        model_spec.require_weights(model_spec.resolve(REPO))
    store(layout.with_name(f"{layout.name}-clip"), model_spec.CLIP_REPO)
    spec = model_spec.require_weights(model_spec.resolve(REPO))
    base = loading.load(spec, device="cpu", dtype="float32")
    assert base.size == tiny.SIZE and base.name == REPO
    assert fetching.plan_downloads(model_spec.CLIP_REPO) == []
    told = runner.invoke(app, ["models", "list", "-q"])
    assert model_spec.CLIP_REPO in told.stdout.split()


@pytest.mark.parametrize(
    "lost",
    [
        "unet/config.json",
        "tokenizer/tokenizer.json",
        "scheduler/scheduler_config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "model_index.json",
    ],
)
def test_a_part_of_a_base_in_the_cache_is_none(tiny_folders: dict[str, Path], lost: str) -> None:
    snapshot = store(tiny_folders["sd1"], REPO)
    assert hub_cache.find_base(REPO) == snapshot
    (snapshot / lost).unlink()
    for each in ("vocab.json", "merges.txt"):
        if lost.startswith("tokenizer"):
            (snapshot / "tokenizer" / each).unlink(missing_ok=True)
    assert hub_cache.find_base(REPO) is None
    assert model_spec.resolve(REPO).folder is None


@pytest.mark.parametrize("commit", ["", "../..", "main", "0" * 39])
def test_a_reference_that_is_no_commit_is_not_followed(tiny_folders: dict[str, Path], commit: str) -> None:
    snapshot = store(tiny_folders["sd1"], REPO)
    (snapshot.parents[1] / "refs" / "main").write_text(commit)
    assert hub_cache.find_base(REPO) is None


def test_what_was_pulled_comes_before_the_cache_and_the_cache_is_never_removed(
    tiny_folders: dict[str, Path], make_pulled: Callable[[str], Path]
) -> None:
    snapshot = store(tiny_folders["sd1"], REPO)
    refused = runner.invoke(app, ["models", "rm", REPO])
    assert refused.exit_code == 2 and "was not pulled" in refused.stderr
    assert (snapshot / "model_index.json").is_file()
    pulled = make_pulled(REPO)
    assert model_spec.resolve(REPO).folder == pulled
    assert runner.invoke(app, ["models", "rm", REPO]).exit_code == 0
    assert not pulled.exists() and model_spec.resolve(REPO).folder == snapshot


@pytest.fixture
def make_pulled(tiny_folders: dict[str, Path]) -> Callable[[str], Path]:
    def make(repo: str) -> Path:
        return shutil.copytree(tiny_folders["sd1"], model_spec.place_of(repo))

    return make
