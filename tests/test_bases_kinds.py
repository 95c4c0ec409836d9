"""A folder, file or repository is recognised before it is opened or fetched; a damaged one is reported, not a crash."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import local_hub
import pytest
from tiny import tiny_folders  # noqa: F401 - a fixture
from typer.testing import CliRunner

from pmagic.bases import kinds, loading, memory_estimate, model_spec
from pmagic.cli.app import app
from pmagic.engine import prompts
from pmagic.errors import Incompatible, NotFound, PmagicError, WeightsMissing

UNET = "diffusion_pytorch_model"
runner = CliRunner()


@pytest.fixture
def folder(tiny_folders: dict[str, Path], tmp_path: Path) -> Path:  # noqa: F811
    """A base of its own to damage; the observers stay where they are."""
    made = tmp_path / "base"
    shutil.copytree(tiny_folders["sd1"], made)
    toml = (made / "pmagic.toml").read_text()
    (made / "pmagic.toml").write_text(toml.replace("../", f"{tiny_folders['sd1'].parent}/"))
    return made


def index(**changed: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / kinds.INDEX
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))

    return change


def writes(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def renames(ending: str, *parts: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for part in parts or kinds.PARTS:
            stem = kinds.stem_of(part)
            (folder / part / f"{stem}.safetensors").rename(folder / part / f"{stem}{ending}")

    return change


def dangles(folder: Path) -> None:
    path = folder / "unet" / f"{UNET}.safetensors"
    path.unlink()
    path.symlink_to(folder / "blobs" / "gone")


def is_folder(folder: Path) -> None:
    (folder / "unet" / f"{UNET}.safetensors").unlink()
    (folder / "unet" / f"{UNET}.safetensors").mkdir()


def shards(folder: Path, variant: str | None = None) -> None:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    (folder / "unet" / f"{UNET}.safetensors").unlink()
    unet.save_pretrained(folder / "unet", max_shard_size="40KB", variant=variant)
    assert len(list((folder / "unet").glob("*-of-*"))) > 2


def loses_a_shard(folder: Path) -> None:
    shards(folder)
    sorted((folder / "unet").glob("*-of-*"))[1].unlink()


def loses_the_index(folder: Path) -> None:
    shards(folder)
    next((folder / "unet").glob("*.index.json")).unlink()


def configures(part: str, **changed: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / part / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))

    return change


KINDS: list[tuple[str, Callable[[Path], None], type[PmagicError], str]] = [
    ("flux", index(_class_name="FluxPipeline"), Incompatible, r"is FLUX \(FluxPipeline\); pmagic learns on Stable"),
    ("sd3", index(_class_name="StableDiffusion3Pipeline"), Incompatible, r"is Stable Diffusion 3 \("),
    ("refiner", index(_class_name="StableDiffusionXLImg2ImgPipeline"), Incompatible, "is the refiner of Stable Diff"),
    ("xl inpaint", index(_class_name="StableDiffusionXLInpaintPipeline"), Incompatible, "Diffusion XL for inpainting"),
    (
        "half of sdxl",
        index(_class_name="StableDiffusionXLPipeline"),
        WeightsMissing,
        "text_encoder_2: model.safetensors is missing",
    ),
    ("other", index(_class_name="NobodysPipeline"), Incompatible, r"is another kind of model \(NobodysPipeline\)"),
    ("onnx class", index(_class_name="OnnxStableDiffusionPipeline"), Incompatible, "is Stable Diffusion as ONNX"),
    ("foreign part", index(scheduler=["os", "system"]), Incompatible, "takes its scheduler from 'os'"),
    ("no class", writes(kinds.INDEX, b"{}"), Incompatible, "has no _class_name"),
    ("a list", index(_class_name=["x", "y"]), Incompatible, "has no _class_name"),
    ("no JSON", writes(kinds.INDEX, b"{"), Incompatible, "its model_index.json cannot be used"),
    ("no table", writes(kinds.INDEX, b"[1]"), Incompatible, "it is not a JSON object"),
    ("deep", writes(kinds.INDEX, b"[" * 100_000), Incompatible, "its model_index.json cannot be used"),
    ("large", writes(kinds.INDEX, b" " * 2**21), Incompatible, "larger than"),
    ("onnx", renames(".onnx"), WeightsMissing, r"unet, vae: only weights as ONNX"),
    ("bin", renames(".bin"), WeightsMissing, r"only weights as pickles, which can hold code \(.*\.bin\)"),
    ("flax", renames(".msgpack"), WeightsMissing, "only weights as Flax"),
    ("bf16", renames(".bf16.safetensors"), WeightsMissing, "unet, vae, text_encoder: only .* variant bf16;"),
    ("non_ema", renames(".non_ema.safetensors", "unet"), WeightsMissing, "unet: only weights in the variant non_ema;"),
    ("name", renames("_2.safetensors", "vae"), WeightsMissing, f"vae: {UNET}_2.safetensors, but no {UNET}.safe"),
    ("dangling", dangles, WeightsMissing, f"unet: {UNET}.safetensors is a link to a file that is not there"),
    ("a folder", is_folder, WeightsMissing, f"unet: {UNET}.safetensors is not a file"),
    ("a shard", loses_a_shard, WeightsMissing, r"unet: .*-00002-of-.*\.safetensors is missing"),
    ("no index", loses_the_index, WeightsMissing, r"unet: \d+ shards without their index"),
    ("no unet", lambda folder: shutil.rmtree(folder / "unet"), WeightsMissing, f"unet: {UNET}.safetensors is missing"),
]


@pytest.mark.parametrize(("change", "kind", "said"), [each[1:] for each in KINDS], ids=[each[0] for each in KINDS])
def test_a_folder_is_named_by_what_it_is(
    folder: Path, change: Callable[[Path], None], kind: type[PmagicError], said: str
) -> None:
    change(folder)
    with pytest.raises(kind, match=said) as caught:
        model_spec.require_weights(model_spec.resolve(str(folder)))
    assert caught.value.next_step


@pytest.mark.parametrize(
    "change",
    [
        renames(".fp16.safetensors"),
        renames(".fp16.safetensors", "unet"),
        shards,
        lambda folder: shards(folder, "fp16"),
        lambda folder: shutil.copy(
            folder / "unet" / f"{UNET}.safetensors", folder / "unet" / f"{UNET}.bf16.safetensors"
        ),
        lambda folder: (folder / "vae" / "old.safetensors").symlink_to("gone"),
    ],
    ids=["fp16", "fp16 unet", "shards", "fp16 shards", "bf16 beside", "a dangling link beside"],
)
def test_weights_in_half_precision_and_in_shards_are_read(folder: Path, change: Callable[[Path], object]) -> None:
    change(folder)
    found = model_spec.resolve(str(folder))
    assert memory_estimate.parameters_by_part(found)["unet"] > 0
    assert loading.load(found, device="cpu", dtype="float32").size == 32


DAMAGES = {
    "layers": configures("unet", layers_per_block=None),
    "heads": configures("text_encoder", num_attention_heads=0),
    "activation": configures("text_encoder", hidden_act="nope"),
    "configuration": writes("vae/config.json", b"[]"),
    "scheduler": writes("scheduler/scheduler_config.json", b"[]"),
    "tokenizer": writes("tokenizer/tokenizer.json", b""),
    "tokenizer table": writes("tokenizer/tokenizer.json", b"{}"),
    "weights of nothing": writes(f"unet/{UNET}.safetensors", b""),
    "pointer": writes(f"unet/{UNET}.safetensors", b"version https://git-lfs.github.com/spec/v1\nsize 9\n"),
    "cut weights": lambda folder: (
        (path := folder / "unet" / f"{UNET}.safetensors").write_bytes(path.read_bytes()[:-100]) and None
    ),
}


@pytest.mark.parametrize("change", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_folder_is_no_defect(folder: Path, change: Callable[[Path], None]) -> None:
    change(folder)
    found = model_spec.resolve(str(folder))
    with pytest.raises(Incompatible) as caught:
        prompts.load_tokenizer(folder)
        memory_estimate.parameters_by_part(model_spec.resolve(str(folder)))
        loading.load(found, device="cpu", dtype="float32")
    assert caught.value.next_step


def test_a_repository_cloned_without_its_large_files_is_told(folder: Path) -> None:
    DAMAGES["pointer"](folder)
    with pytest.raises(Incompatible, match="a Git LFS pointer, fetch its content with `git lfs pull`"):
        memory_estimate.parameters_by_part(model_spec.resolve(str(folder)))


def single_file(path: Path, *keys: str) -> None:
    header = json.dumps({key: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for key in keys}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


@pytest.mark.parametrize(
    ("name", "keys", "said"),
    [
        (
            "x.safetensors",
            ["model.diffusion_model.out.2.bias"],
            "a single file of Stable Diffusion without its autoencoder,",
        ),
        (
            "x.safetensors",
            ["model.diffusion_model.a", "first_stage_model.a", "conditioner.embedders.1.model.a"],
            "a single file of Stable Diffusion without a text encoder that pmagic knows,",
        ),
        ("x.safetensors", ["model.diffusion_model.double_blocks.0.a"], "a single file of FLUX,"),
        ("x.safetensors", ["model.diffusion_model.joint_blocks.0.a"], "a single file of Stable Diffusion 3,"),
        ("x.safetensors", ["lora_unet_down_blocks_0.lora_up.weight"], "a LoRA,"),
        ("x.safetensors", ["unet.a.lora.up.weight"], "a LoRA,"),
        ("x.safetensors", ["emb_params"], "a textual inversion,"),
        ("x.safetensors", ["anything"], "a file of weights,"),
        ("x.safetensors", None, "not a safetensors file,"),
        ("x.ckpt", None, "a file of pickles, which can hold code,"),
        ("x.gguf", None, "a file of GGUF,"),
        ("x.onnx", None, "a file of ONNX,"),
        ("x.txt", None, "a file,"),
    ],
)
@pytest.mark.parametrize(
    "command", [["learn", "a.png", "--name", "a", "--base"], ["models", "pull"]], ids=["learn", "pull"]
)
def test_a_file_is_named_and_never_looked_for_on_the_hub(
    command: list[str], name: str, keys: list[str] | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(__file__).parents[1] / "pmagic" / "mini" / "portraits" / "alice.png", "a.png")
    path = tmp_path / "checkpoints" / name
    path.parent.mkdir()
    single_file(path, *keys) if keys else path.write_bytes(b"junk")
    done = runner.invoke(app, [*command, f"checkpoints/{name}"])
    assert done.exit_code == 6, done.stderr
    assert f"checkpoints/{name} is {said} and a base is a diffusers folder or a single file" in done.stderr
    assert "models pull" not in done.stderr


def test_a_folder_that_is_mistyped_is_looked_for_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    here = folder.parent / "bases" / "drawings"
    here.parent.mkdir()
    folder.rename(here)
    for name in ("./bases/drawing", "bases/deep/drawings", str(here)[:-1], f"{here}/x", "../nowhere", "bases/drawin/"):
        with pytest.raises(NotFound, match="there is no such folder") as caught:
            model_spec.resolve(name)
        assert caught.value.next_step
    with pytest.raises(NotFound) as caught:
        model_spec.resolve("./bases/drawing")
    assert caught.value.next_step == "did you mean 'drawings', which lies beside it?"
    with pytest.raises(NotFound) as caught:
        model_spec.resolve("./nowhere")
    assert caught.value.next_step == "check the path: no diffusers folder lies beside it"
    # It may be meant for the hub, too: both are said.
    with pytest.raises(WeightsMissing) as missing:
        model_spec.require_weights(model_spec.resolve("bases/drawing"))
    assert "did you mean 'drawings', which lies beside it?" in missing.value.next_step
    assert "`pmagic models pull bases/drawing`" in missing.value.next_step
    assert missing.value.what == "the base bases/drawing is not on this machine"
    (folder.parent / "gone").symlink_to("nowhere")
    with pytest.raises(Incompatible, match="gone is a link to a file that is not there"):
        model_spec.resolve("gone")


def test_a_folder_without_an_index_says_what_is_in_it(folder: Path) -> None:
    assert "one part of a model" in kinds.folder_kind(folder / "unet")
    (folder / kinds.INDEX).unlink()
    (folder / kinds.INDEX).symlink_to("gone")
    with pytest.raises(NotFound, match=r"its model_index\.json is a link to a file that is not there"):
        model_spec.resolve(str(folder))
    (folder / kinds.INDEX).unlink()
    single_file(folder / "sd.safetensors", "model.diffusion_model.a")
    with pytest.raises(NotFound, match=r"in it is sd\.safetensors, a single file of Stable Diffusion"):
        model_spec.resolve(str(folder))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({kinds.INDEX: b'{"_class_name": "FluxPipeline"}'}, "owner/repo is FLUX (FluxPipeline)"),
        (
            {kinds.INDEX: b'{"_class_name": "StableDiffusionXLInpaintPipeline"}'},
            "owner/repo is a Stable Diffusion XL for inpainting",
        ),
        ({"v1-5.safetensors": b"x" * 1000}, "it holds v1-5.safetensors, and no model_index.json"),
        ({"README.md": b"x"}, "it has no model_index.json"),
        (
            {kinds.INDEX: b'{"_class_name": "StableDiffusionPipeline"}', "unet/model.onnx": b"x"},
            "unet: only weights as ONNX (model.onnx)",
        ),
        (
            {kinds.INDEX: b'{"_class_name": "StableDiffusionPipeline"}', f"unet/{UNET}.bf16.safetensors": b"x"},
            "unet: only weights in the variant bf16",
        ),
    ],
)
def test_a_repository_is_refused_before_its_weights_are_fetched(
    files: dict[str, bytes], said: str, hub_here: Callable[..., local_hub.LocalHub]
) -> None:
    hub = hub_here({"owner/repo": files})
    done = runner.invoke(app, ["models", "pull", "owner/repo"])
    assert done.exit_code == 6 and said in done.stderr, done.stderr
    assert set(hub.fetched) <= {f"owner/repo/{kinds.INDEX}"}
