"""Which base a name means, which of its parts are missing, and how it is pulled (from a double of the hub, offline)."""

import io
import json
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pmagic import settings, shelf
from pmagic.base_names import HUB_ID
from pmagic.bases import checksums, fetching, kinds, local_bases, memory_estimate, model_spec
from pmagic.errors import Incompatible, NotFound, StorageFailed, UsageError, WeightsMissing


def base_folder(folder: Path, toml: str = "") -> Path:
    """The outline of a diffusers folder: the files that a spec checks, without real weights."""
    for part in kinds.PARTS:
        (folder / part).mkdir(parents=True)
        (folder / part / f"{kinds.stem_of(part)}.safetensors").write_bytes(safetensors_of(10))
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (folder / "unet" / "config.json").write_text(json.dumps({"sample_size": 64, "block_out_channels": [320, 640]}))
    (folder / "vae" / "config.json").write_text(json.dumps({"sample_size": 512, "block_out_channels": [128] * 4}))
    if toml:
        (folder / "pmagic.toml").write_text(toml)
    return folder


def safetensors_of(count: int) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [count, 1], "data_offsets": [0, 4 * count]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4 * count)


def observer_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(safetensors_of(1))
    return folder


@pytest.mark.parametrize("name", shelf.names("bases.known"))
def test_contract(name: str) -> None:
    """Every base with a short name has a file of that name, and states its origin and its licence."""
    stated = shelf.take("bases.known", name).SPEC
    assert stated.name == name and stated.licence
    assert stated.size_gb is not None and 0 < stated.size_gb < 20
    assert (stated.folder is None) != (stated.repo is None)  # on the hub, or shipped
    if stated.repo is not None:
        assert HUB_ID.fullmatch(stated.repo)
        assert model_spec.resolve(stated.repo.upper()).name == name
    located = model_spec.resolve(name)
    assert located.name == name
    assert model_spec.missing_parts(located) == (
        [] if stated.repo is None else ["the weights", f"the observer {stated.clip}"]
    )


def test_the_short_names_are_those_of_the_readme() -> None:
    specs = {each.name: each.repo for each in model_spec.known_bases()}
    assert specs == {
        "mini": None,
        "sd14": "CompVis/stable-diffusion-v1-4",
        "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "dreamlike": "dreamlike-art/dreamlike-photoreal-2.0",
        "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    }


def test_a_hub_id_of_a_known_base_is_that_base() -> None:
    assert model_spec.resolve("compvis/stable-diffusion-v1-4").name == "sd14"


def test_any_other_hub_id_is_a_base_of_unknown_size() -> None:
    found = model_spec.resolve("owner/repo")
    assert (found.name, found.repo, found.folder, found.size_gb) == ("owner/repo", "owner/repo", None, None)


@pytest.mark.parametrize("name", ["minni", "sd-14", "", "a/b/c", "../x/y", "owner/", "/no/such/folder", "-x/y"])
def test_anything_else_is_not_found(name: str) -> None:
    with pytest.raises(NotFound, match="there is no base"):
        model_spec.resolve(name)
    with pytest.raises(NotFound) as caught:
        model_spec.resolve("minni")
    assert "did you mean 'mini'?" in caught.value.next_step


def test_a_local_folder_is_a_base_with_its_own_defaults(tmp_path: Path) -> None:
    observer = observer_folder(tmp_path / "clip")
    toml = '[learn]\nlearning_rate = 0.001\n[observers]\nclip = "../clip"\n[knows]\nwhat = "drawings"\nerror = 0.2\n'
    found = model_spec.resolve(str(base_folder(tmp_path / "base", toml)))
    assert found.name == str(found.folder) == str((tmp_path / "base").resolve())
    assert found.clip == observer.resolve()
    assert found.defaults["learn"] == {"learning_rate": 0.001}
    assert model_spec.require_weights(found) is found
    assert found.domain == model_spec.Domain("drawings", 0.2, ())


def test_a_base_of_one_domain_shows_samples_of_it_and_others_have_none(tmp_path: Path) -> None:
    knows = '[knows]\nwhat = "drawings"\nerror = 0.2\nsamples = "shown"\n'
    folder = base_folder(tmp_path / "base", knows)
    (folder / "shown").mkdir()
    (folder / "shown" / "b.png").touch()
    assert model_spec.resolve(str(folder)).domain == model_spec.Domain(
        "drawings", 0.2, ((folder / "shown" / "b.png").resolve(),)
    )
    assert model_spec.resolve(str(base_folder(tmp_path / "plain"))).domain is None
    (folder / "pmagic.toml").write_text(knows.replace('"shown"', "3"))
    with pytest.raises(Incompatible, match="samples must be a folder"):
        model_spec.resolve(str(folder))


def test_what_a_persona_calls_its_base_is_never_taken_for_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = model_spec.resolve(str(base_folder(tmp_path / "here")))
    assert (model_spec.resolve("here").folder, here.title) == (here.folder, "here")
    for name in ("here", str(here.folder), "./here"):
        with pytest.raises(NotFound):
            model_spec.resolve_name(name)
        with pytest.raises(NotFound):
            local_bases.base_of(name, "f" * 64)
    local_bases.remember(here, "f" * 64)
    local_bases.remember(model_spec.resolve("mini"), "e" * 64)
    assert local_bases.base_of("another name", "f" * 64) == here
    assert local_bases.base_of("mini", "f" * 64) == here  # a folder may be called as a known base is
    assert local_bases.base_of("mini", "e" * 64).folder == model_spec.resolve("mini").folder
    assert [line.split()[0] for line in settings.places_file().read_text().splitlines()] == ["f" * 64]
    (tmp_path / "here").rename(tmp_path / "moved")
    with pytest.raises(NotFound):
        local_bases.base_of("here", "f" * 64)
    settings.places_file().write_text("[[[")
    with pytest.raises(UsageError, match=r"bases\.toml"):
        local_bases.base_of("mini", "f" * 64)


def test_observers_are_folders_where_they_are_here_and_names_where_not(tmp_path: Path) -> None:
    toml = '[observers]\nclipseg = "../clipseg"\nfaces = "../faces_a"\njudge = "../faces_b"\n'
    found = model_spec.resolve(str(base_folder(tmp_path / "base", toml)))
    assert (found.clip, found.clipseg, found.faces, found.eval_recognizer) == (
        model_spec.CLIP_REPO,
        (tmp_path / "clipseg").resolve(),
        (tmp_path / "faces_a").resolve(),
        (tmp_path / "faces_b").resolve(),
    )
    plain = model_spec.resolve("sd14")
    assert (plain.clipseg, plain.faces, plain.eval_recognizer) == (
        "CIDAS/clipseg-rd64-refined",
        "buffalo_l",
        "antelopev2",
    )
    model_spec.place_of("buffalo_l").mkdir(parents=True)
    assert model_spec.resolve("sd14").faces == model_spec.place_of("buffalo_l")


def test_the_miniature_has_its_own_observers() -> None:
    found = model_spec.resolve("mini")
    assert [Path(place).name for place in (found.clip, found.clipseg, found.faces, found.eval_recognizer)] == [
        "clip",
        "clipseg",
        "faces_a",
        "faces_b",
    ]


def test_a_base_without_face_packs_and_clipseg_is_complete(tmp_path: Path) -> None:
    """The reference recipe with a mask needs neither."""
    observer_folder(tmp_path / "clip")
    found = model_spec.resolve(str(base_folder(tmp_path / "base", '[observers]\nclip = "../clip"\nfaces = "../none"')))
    assert model_spec.require_weights(found) is found


def test_a_folder_that_is_no_base_says_why(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no model_index\.json"):
        model_spec.resolve(str(tmp_path))


@pytest.mark.parametrize(
    "toml",
    [
        "[learn",
        "learn = 3",
        "[observers]\nclip = 3",
        '[observers]\neyes = "x"',
        '[knows]\nwhat = "x"',
        '[knows]\nwhat = "x"\nerror = "much"',
        f"x = {'9' * 5000}",
        f"x = {'[' * 3000}",
    ],
)
def test_a_pmagic_toml_that_cannot_be_used_is_named(tmp_path: Path, toml: str) -> None:
    with pytest.raises(Incompatible, match=r"pmagic\.toml"):
        model_spec.resolve(str(base_folder(tmp_path / "base", toml)))


def test_missing_weights_say_what_how_big_and_what_works_at_once() -> None:
    with pytest.raises(WeightsMissing, match=r"CompVis/stable-diffusion-v1-4.*5\.8 GB") as caught:
        model_spec.require_weights(model_spec.resolve("sd14"))
    assert "`pmagic models pull sd14` and `pmagic models pull buffalo_l`" in caught.value.next_step
    assert "--base mini" in caught.value.next_step


def test_memory_is_counted_from_the_headers(tmp_path: Path) -> None:
    found = model_spec.resolve(str(base_folder(tmp_path / "base")))
    assert sum(memory_estimate.parameters_by_part(found).values()) == 30
    assert memory_estimate.memory_to_learn(found, 2) == 30 * 4 + 2 * 2_000_000_000  # SD 1.4's own shape
    assert memory_estimate.memory_to_learn(found, 2, half=True) == 20 * 4 + 10 * 2 + 2 * 1_200_000_000
    for low, more in ((False, 2.4e9), (True, 1.3e9)):  # large faces are decoded one after the other, whatever the batch
        for batch in (1, 2):
            alone = memory_estimate.memory_to_learn(found, batch, low=low, half=True)
            assert memory_estimate.memory_to_learn(found, batch, low=low, half=True, decodes=True) == alone + more
    for pictures, side, half, needed in (
        (1, 512, True, 1.2e9),  # of the decoder
        (8, 512, True, 8 * 0.2e9),
        (8, 512, False, 8 * 0.5e9),
        (8, 1024, True, 32 * 0.2e9),
        (2, 256, False, 1.2e9 / 4),
    ):
        assert memory_estimate.memory_to_draw(found, pictures, (side, side), half=half) == pytest.approx(needed)
    (found.folder / "unet" / "config.json").write_text(
        json.dumps({"sample_size": 32, "block_out_channels": [320, 640]})
    )
    for batch, at_once in ((1, 1), (3, 3), (4, 4), (5, 4)):  # of a quarter of the pixels each, four at once
        alone = memory_estimate.memory_to_learn(found, batch)
        assert memory_estimate.memory_to_learn(found, batch, decodes=True) == alone + at_once * 3.9e9 / 4
    (found.folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(safetensors_of(10))
    assert sum(memory_estimate.parameters_by_part(found).values()) == 30  # the same part in two precisions


@pytest.mark.parametrize("header", [b"[]", b'{"a":1}', b'{"a":{"shape":["x"]}}', b"[" * 5000, b"{"])
def test_weights_that_are_no_safetensors_file_are_named(tmp_path: Path, header: bytes) -> None:
    found = model_spec.resolve(str(base_folder(tmp_path / "base")))
    (found.folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(Incompatible, match=r"diffusion_pytorch_model\.safetensors is not a safetensors file"):
        sum(memory_estimate.parameters_by_part(found).values())


INDEX = b'{"_class_name": "StableDiffusionPipeline"}'
FILES = {
    "model_index.json": len(INDEX),
    "unet/diffusion_pytorch_model.safetensors": 30,
    "unet/diffusion_pytorch_model.fp16.safetensors": 15,
    "unet/diffusion_pytorch_model.bin": 30,
    "unet/config.json": 2,
    "vae/diffusion_pytorch_model.safetensors": 20,
    "vae/config.json": 2,
    "text_encoder/model.safetensors": 10,
    "text_encoder/config.json": 2,
    "tokenizer/vocab.json": 3,
    "tokenizer/merges.txt": 3,
    "scheduler/scheduler_config.json": 1,
    "safety_checker/model.safetensors": 99,
    "sd-v1-4.ckpt": 99,
    "evil.py": 1,
}
OBSERVER = {"model.safetensors": 7, "pytorch_model.bin": 9, "config.json": 1, "vocab.json": 1, "merges.txt": 1}
REPOS = {"CompVis/stable-diffusion-v1-4": FILES, model_spec.CLIP_REPO: OBSERVER, model_spec.CLIPSEG_REPO: OBSERVER}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The hub client's few calls, answered from REPOS; `asked` lists the downloads."""
    import huggingface_hub

    asked: list[tuple[str, str, list[str]]] = []

    class Api:
        def model_info(self, repo: str, files_metadata: bool, revision: str | None = None) -> SimpleNamespace:
            files = [SimpleNamespace(rfilename=name, size=size, lfs=None) for name, size in REPOS[repo].items()]
            return SimpleNamespace(siblings=files, sha="c0ffee", card_data=SimpleNamespace(license="openrail"))

        def get_repo_discussions(self, repo: str, **rest: object) -> list:
            return []

    def download(repo: str, revision: str, local_dir: Path, allow_patterns: list[str]) -> str:
        asked.append((repo, revision, allow_patterns))
        for name in allow_patterns:
            path = Path(local_dir) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(INDEX if name == "model_index.json" else bytes(REPOS[repo][name]))
        return str(local_dir)

    def download_one(repo: str, name: str, revision: str, local_dir: Path) -> None:
        assert name == "model_index.json", "nothing else is read before it was told"
        (Path(local_dir) / name).write_bytes(INDEX)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download_one)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return SimpleNamespace(asked=asked)


def test_an_order_tells_size_and_licence_and_takes_one_set_of_safetensors(hub: SimpleNamespace) -> None:
    orders = fetching.plan_downloads("sd14")
    assert [order.repo for order in orders] == [
        "CompVis/stable-diffusion-v1-4",
        model_spec.CLIP_REPO,
        model_spec.CLIPSEG_REPO,
    ]
    assert (orders[0].size, orders[0].licence, orders[0].revision) == (
        len(INDEX) + 30 + 2 + 20 + 2 + 10 + 2 + 3 + 3 + 1,
        "openrail",
        "c0ffee",
    )
    assert not [
        name for order in orders for name in order.files if name.endswith((".bin", ".ckpt", ".py", ".fp16.safetensors"))
    ]
    assert model_spec.resolve("sd14").folder is None
    assert hub.asked == []  # nothing is downloaded before it was announced


def test_a_stable_diffusion_xl_is_pulled_in_half_precision_with_both_encoders() -> None:
    """The names are those of stabilityai/stable-diffusion-xl-base-1.0, whose full precision is 14 GB."""
    unet, encoder = "diffusion_pytorch_model", "model"
    names = [
        *(f"{part}/{stem}{variant}.safetensors" for part, stem in
          (("unet", unet), ("vae", unet), ("vae_1_0", unet), ("text_encoder", encoder), ("text_encoder_2", encoder))
          for variant in ("", ".fp16")),
        *(f"{part}/config.json" for part in ("unet", "vae", "vae_1_0", "text_encoder", "text_encoder_2")),
        *(f"{part}/{name}" for part in ("tokenizer", "tokenizer_2") for name in ("vocab.json", "merges.txt")),
        "unet/model.onnx", "scheduler/scheduler_config.json", "model_index.json", "sd_xl_base_1.0.safetensors",
    ]  # fmt: skip
    assert fetching._base_files(kinds.SDXL, names) == sorted(
        name for name in names
        if ("/" in name and "vae_1_0" not in name and not name.endswith(".onnx")
        and (".safetensors" not in name or ".fp16" in name)) or name == "model_index.json"
    )  # fmt: skip
    plain = [name for name in names if ".fp16" not in name or not name.startswith("vae/")]
    assert f"vae/{unet}.safetensors" in fetching._base_files(kinds.SDXL, plain)
    assert fetching._base_files(kinds.SDXL, [name for name in names if "text_encoder_2" not in name]) == []


def test_what_was_pulled_is_found_and_not_pulled_again(hub: SimpleNamespace) -> None:
    for order in fetching.plan_downloads("sd14"):
        fetching.fetch(order, show=False)
    found = model_spec.require_weights(model_spec.resolve("sd14"))
    assert found.folder == model_spec.place_of("CompVis/stable-diffusion-v1-4")
    assert found.clip == model_spec.place_of(model_spec.CLIP_REPO)
    assert found.clipseg == model_spec.place_of(model_spec.CLIPSEG_REPO)
    assert found.faces == "buffalo_l"  # a pack is only fetched by its own name
    assert not list(found.folder.parent.glob("*.part"))
    assert fetching.plan_downloads("sd14") == []


def test_an_observer_can_be_pulled_by_itself(hub: SimpleNamespace) -> None:
    (order,) = fetching.plan_downloads(model_spec.CLIPSEG_REPO)
    fetching.fetch(order, show=False)
    assert model_spec.resolve("sd14").clipseg == model_spec.place_of(model_spec.CLIPSEG_REPO)
    assert fetching.plan_downloads(model_spec.CLIPSEG_REPO) == []


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A double of insightface's download, which writes an archive with `inside` to the same place."""
    from insightface.utils import storage

    monkeypatch.delenv("HF_HUB_OFFLINE")
    double = SimpleNamespace(inside=["det_10g.onnx", "w600k_r50.onnx"], error=None, digest=None)

    def download(url: str, path: str, overwrite: bool) -> str:
        print("Downloading", url)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if double.error:
            raise double.error
        with zipfile.ZipFile(path, "w") as made:
            for file in double.inside:
                made.writestr(file, b"onnx")
        monkeypatch.setitem(checksums.PACKS, Path(path).stem, double.digest or checksums.sha256(Path(path)))
        return path

    monkeypatch.setattr(storage, "download_file", download)
    return double


@pytest.mark.parametrize("nested", ["", "buffalo_l/"])
def test_a_pack_is_told_with_its_licence_and_published_whole(
    archive: SimpleNamespace, capsys: pytest.CaptureFixture[str], nested: str
) -> None:
    archive.inside = [*(nested + name for name in archive.inside), "read.me", "more/x.py"]
    (order,) = fetching.plan_downloads("buffalo_l")
    assert "non-commercial research only" in order.licence
    assert order.size > 300_000_000
    place = fetching.fetch(order, show=False)
    assert place == model_spec.place_of("buffalo_l") == model_spec.resolve("sd14").faces
    assert sorted(path.name for path in place.iterdir()) == ["SHA256SUMS", "det_10g.onnx", "w600k_r50.onnx"]
    assert checksums.faults(place) == []
    assert [path.name for path in place.parent.iterdir()] == ["buffalo_l"]
    assert capsys.readouterr().out == ""  # stdout is for results
    assert fetching.plan_downloads("buffalo_l") == []


def linked() -> zipfile.ZipInfo:
    member = zipfile.ZipInfo("x.onnx")
    member.external_attr = 0o120777 << 16
    return member


@pytest.mark.parametrize(
    "member", ["../x.onnx", "/x.onnx", "a/b/x.onnx", "..\\x.onnx", "a/../x.onnx", ".x.onnx", linked()], ids=str
)
def test_a_pack_of_anything_but_plain_files_is_not_unpacked(archive: SimpleNamespace, member: object) -> None:
    archive.inside.append(member)
    (order,) = fetching.plan_downloads("buffalo_l")
    with pytest.raises(WeightsMissing, match="is not unpacked"):
        fetching.fetch(order, show=False)
    models = order.place.parent
    assert [path.name for path in models.parent.rglob("*") if path.is_file()] == ["buffalo_l.zip"]


def test_a_pack_that_unpacks_to_too_much_is_not_unpacked(archive: SimpleNamespace) -> None:
    (order,) = fetching.plan_downloads("buffalo_l")
    with pytest.raises(WeightsMissing, match="is not unpacked"):
        fetching._fetch_pack(replace(order, size=3), order.place.with_suffix(".part"), show=False)


def test_a_pack_of_another_sha256_is_not_unpacked(archive: SimpleNamespace) -> None:
    archive.digest = "0" * 64
    (order,) = fetching.plan_downloads("buffalo_l")
    with pytest.raises(WeightsMissing, match="its SHA-256 is not the known one"):
        fetching.fetch(order, show=False)
    assert [path for path in order.place.parent.rglob("*") if path.is_file()] == []
    assert all(len(each) == 64 for each in checksums.PACKS.values()) and checksums.PACKS.keys() == fetching.PACKS.keys()


def test_a_pack_without_onnx_files_is_told(archive: SimpleNamespace) -> None:
    archive.inside = ["read.me"]
    with pytest.raises(WeightsMissing, match="without ONNX files"):
        fetching.fetch(fetching.plan_downloads("buffalo_l")[0], show=False)


def test_a_pack_that_does_not_arrive_leaves_none(archive: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    (order,) = fetching.plan_downloads("antelopev2")
    archive.error = RuntimeError("Failed downloading url")
    with pytest.raises(WeightsMissing, match="its client failed with RuntimeError: Failed downloading url"):
        fetching.fetch(order, show=False)
    archive.error = None
    monkeypatch.setattr(checksums, "sha256", lambda path: checksums.PACKS["antelopev2"])
    real = zipfile.ZipFile
    monkeypatch.setattr(zipfile, "ZipFile", lambda path, mode="r": real(io.BytesIO(b"PK cut"), mode))
    with pytest.raises(WeightsMissing, match="did not arrive complete"):
        fetching.fetch(order, show=False)
    assert model_spec.resolve("sd14").eval_recognizer == "antelopev2"


def test_a_pack_offline_says_so(archive: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.error = AssertionError("the network was asked")
    monkeypatch.setenv("HF_HUB_OFFLINE", "on")
    with pytest.raises(WeightsMissing, match="cannot be reached: --offline is given") as caught:
        fetching.fetch(fetching.plan_downloads("buffalo_l")[0], show=False)
    assert "check the connection" not in caught.value.next_step
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # as the hub's client reads it
    archive.error = None
    assert fetching.fetch(fetching.plan_downloads("buffalo_l")[0], show=False).is_dir()


def test_an_interrupted_pull_leaves_no_base(hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    order = fetching.plan_downloads("sd14")[0]

    def interrupted(repo: str, local_dir: Path, **rest: object) -> None:
        (Path(local_dir) / "unet").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(huggingface_hub, "snapshot_download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetching.fetch(order, show=False)
    assert model_spec.resolve("sd14").folder is None


def test_a_disk_that_is_too_small_is_told_before_the_download(
    hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = fetching.plan_downloads("sd14")[0]
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: SimpleNamespace(free=3))
    with pytest.raises(StorageFailed, match="GB free"):
        fetching.fetch(order, show=False)
    assert hub.asked == []


def test_a_repository_without_safetensors_is_refused(hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REPOS, "owner/pickles", {"model_index.json": 1, "unet/diffusion_pytorch_model.bin": 5})
    with pytest.raises(Incompatible, match=r"unet: only weights as pickles, which can hold code \(diff.*\.bin\)"):
        fetching.plan_downloads("owner/pickles")


def test_offline_is_said_so() -> None:
    with pytest.raises(WeightsMissing, match="the hub cannot be reached") as caught:
        fetching.plan_downloads("sd14")
    assert "--base mini" in caught.value.next_step and "without them" in caught.value.next_step


def test_the_miniature_is_nothing_to_pull() -> None:
    with pytest.raises(UsageError, match="nothing to pull"):
        fetching.plan_downloads("mini")
