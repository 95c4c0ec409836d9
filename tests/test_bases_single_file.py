"""A single file of weights is a base: the same pictures as its folder, without a fetch; damaged ones are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import single_files
import tiny
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from pmagic.bases import file_kinds, loading, local_bases, memory_estimate, model_spec
from pmagic.cli.app import app
from pmagic.engine import prompts, rendering, token_batch
from pmagic.engine.recipes import render_settings_for
from pmagic.errors import Incompatible, NotFound, WeightsMissing
from pmagic.library.store import Library

pytest_plugins = ["tiny", "tiny_xl"]

runner = CliRunner()
LAYOUTS = ("sd1", "sd2", "sdxl")


@pytest.fixture(scope="module")
def folders(tiny_folders: dict[str, Path], xl_folder: Path) -> dict[str, Path]:
    return {**tiny_folders, "sdxl": xl_folder}


@pytest.fixture
def checkpoint(folders: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """Makes a single file, with a folder of its configurations beside it, which hold the tiny shape."""

    def make(layout: str, **how: bool) -> Path:
        base = tiny.open_base(folders[layout])
        path = single_files.save(base, tmp_path / "my mix.safetensors", open_clip=layout == "sd2", **how)
        beside = tmp_path / "my mix"
        shutil.copytree(folders[layout], beside, ignore=shutil.ignore_patterns("*.safetensors", "tokenizer*"))
        observers = (beside / "pmagic.toml").read_text()
        (beside / "pmagic.toml").write_text(observers.replace("../", f"{folders[layout].parent}/"))
        for part in ("tokenizer", "tokenizer_2"):  # the words of a tiny base are not CLIP's
            if (folders[layout] / part).is_dir():
                shutil.copytree(folders[layout] / part, beside / part)
        return path

    return make


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_holds_the_weights_of_its_folder(
    folders: dict[str, Path], checkpoint: Callable[..., Path], layout: str
) -> None:
    path = checkpoint(layout)
    assert file_kinds.architecture_of(path) == layout
    whole, single = tiny.open_base(folders[layout]), tiny.open_base(path)
    assert loading.weights_hash(single.pipeline) == loading.weights_hash(whole.pipeline)
    assert single.pipeline.scheduler.config.prediction_type == whole.pipeline.scheduler.config.prediction_type
    assert single.fingerprint == loading.fingerprint_of(single.spec) != whole.fingerprint
    settings = render_settings_for("paper", {}, steps=2, guidance=2.0)
    drawn = [rendering.render(base, None, "a photo of {}", [0], settings, word="face")[0] for base in (whole, single)]
    assert drawn[0].tobytes() == drawn[1].tobytes()
    assert memory_estimate.parameters_by_part(single.spec) == memory_estimate.parameters_by_part(whole.spec)
    assert memory_estimate.unet_shapes(single.spec) == memory_estimate.unet_shapes(whole.spec) != {}
    if layout == "sd1":
        assert memory_estimate.text_shapes(single.spec) == memory_estimate.text_shapes(whole.spec) != {}


def test_the_words_come_from_clip_where_the_file_has_no_tokenizer(
    folders: dict[str, Path], checkpoint: Callable[..., Path]
) -> None:
    path = checkpoint("sdxl")
    for part in ("tokenizer", "tokenizer_2"):
        shutil.rmtree(path.with_suffix("") / part)
    spec = model_spec.resolve(str(path))
    assert spec.tokenizer_folder == spec.clip
    assert prompts.load_tokenizer(spec.tokenizer_folder).tokenize("cowboy") == ["cowboy</w>"]
    single, whole = tiny.open_base(path), tiny.open_base(folders["sdxl"])
    assert [each.pad_token for each in single.tokenizers] == [each.pad_token for each in whole.tokenizers]
    found, expected = (token_batch.encode_plain(base, "a photo of face") for base in (single, whole))
    torch.testing.assert_close((found.keys, found.pooled), (expected.keys, expected.pooled))


def test_without_clip_the_message_says_what_to_pull(tmp_path: Path, checkpoint: Callable[..., Path]) -> None:
    path = checkpoint("sd1")
    shutil.rmtree(path.with_suffix(""))  # so the shipped configurations count, and no observer is named
    spec = model_spec.resolve(str(path))
    assert spec.folder == model_spec.SINGLE_FILES / "sd1"
    with pytest.raises(WeightsMissing, match="clip-vit-base-patch32, which reads the photo") as caught:
        model_spec.require_weights(spec)
    assert "`pmagic models pull openai/clip-vit-base-patch32`" in caught.value.next_step


def test_a_file_of_another_shape_says_where_its_configurations_go(
    folders: dict[str, Path], checkpoint: Callable[..., Path]
) -> None:
    path = checkpoint("sd1")
    shutil.rmtree(path.with_suffix(""))
    clip = folders["sd1"].with_name("sd1-clip")
    place = model_spec.place_of(model_spec.CLIP_REPO)
    place.parent.mkdir(parents=True)
    place.symlink_to(clip)
    with pytest.raises(Incompatible, match=r"the unet in .* cannot be opened: .*size mismatch") as caught:
        tiny.open_base(path)
    assert "into a folder 'my mix' beside it" in caught.value.next_step


def test_a_persona_learned_on_a_file_is_drawn_by_its_name(
    library: Library, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path = checkpoint("sdxl", half=True)
    photo = tmp_path / "alice.png"
    tiny.photo(3).save(photo)
    words = ["--recipe", "reference", "--iterations", "1", "--name", "alice"]
    done = runner.invoke(app, ["learn", str(photo), "--base", str(path), *words])
    assert done.exit_code == 0, (done.stderr, done.exception)
    persona = library.load("alice")[1]
    assert persona.base == "my mix.safetensors"
    assert local_bases.base_of(persona.base, persona.fingerprint).file == path
    drawn = runner.invoke(app, ["render", "alice", "as a cowboy", "--steps", "2", "--out", str(tmp_path)])
    assert drawn.exit_code == 0, drawn.stderr
    path.unlink()
    gone = runner.invoke(app, ["render", "alice", "as a cowboy", "--steps", "2", "--out", str(tmp_path)])
    assert gone.exit_code == NotFound.exit_code and "the base of the persona is not known here" in gone.stderr


def test_a_file_that_marks_velocity_predicts_it(checkpoint: Callable[..., Path]) -> None:
    path = checkpoint("sdxl")
    save_file({**load_file(path), "v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}, path)
    config = tiny.open_base(path).pipeline.scheduler.config
    assert (config.prediction_type, config.rescale_betas_zero_snr) == ("v_prediction", True)


def test_a_missing_weight_is_refused_not_random(checkpoint: Callable[..., Path]) -> None:
    path = checkpoint("sd1")
    weights = load_file(path)
    for name, part in (("model.diffusion_model.out.2.bias", "unet"), ("first_stage_model.quant_conv.bias", "vae")):
        save_file({key: each for key, each in weights.items() if key != name}, path)
        with pytest.raises(Incompatible, match=rf"the {part} in .* lacks 1 weights"):
            tiny.open_base(path)


def test_a_folder_of_another_kind_beside_it_is_named(checkpoint: Callable[..., Path], xl_folder: Path) -> None:
    path = checkpoint("sd1")
    index = path.with_suffix("") / "model_index.json"
    index.write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline"}))
    with pytest.raises(Incompatible, match="has other parts than the folder of the same name beside it, my mix"):
        model_spec.resolve(str(path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: {"lora_unet.lora_up.weight": torch.zeros(1)}, "a LoRA"),
        (lambda weights: {**weights, "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(16, 9, 3, 3)},
         "a single file of a Stable Diffusion for inpainting, whose UNet reads 9 channels instead of 4"),
        (lambda weights: {name: each for name, each in weights.items() if name.startswith("first")},
         "an autoencoder alone"),
        (lambda weights: {name: each for name, each in weights.items() if name.startswith("model")},
         "a single file of Stable Diffusion without its autoencoder"),
        (lambda weights: {name: each for name, each in weights.items() if not name.startswith("cond")},
         "a single file of Stable Diffusion without a text encoder that pmagic knows"),
        (lambda weights: {**weights, "edm_mean": torch.zeros(4)}, "a single file of Playground 2.5"),
        (lambda weights: {"conditioner.embedders.0.model.a": torch.zeros(1), "model.diffusion_model.a": torch.zeros(1)},
         "a single file of the refiner of Stable Diffusion XL"),
        (lambda weights: {"down_blocks.0.a": torch.zeros(1)}, "a UNet alone"),
        (lambda weights: {"text_model.a": torch.zeros(1)}, "a text encoder alone"),
        (lambda weights: {"model.diffusion_model.double_blocks.0.a": torch.zeros(1)}, "a single file of FLUX"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_base_is_named(
    checkpoint: Callable[..., Path], tmp_path: Path, change: Callable[[dict], dict], said: str
) -> None:
    path = checkpoint("sd1")
    save_file({name: each.clone() for name, each in change(load_file(path)).items()}, path)
    with pytest.raises(Incompatible) as caught:
        model_spec.resolve(str(path))
    assert (
        f"is {said}" in caught.value.what and "or a single file of Stable Diffusion 1.x, 2.x or XL" in caught.value.what
    )


def test_a_file_that_is_cut_says_how_much_is_there(checkpoint: Callable[..., Path]) -> None:
    path = checkpoint("sd1")
    data = path.read_bytes()
    path.write_bytes(data[:-1000])
    with pytest.raises(Incompatible, match=f"is cut: {len(data) - 1000} of its {len(data)} bytes are there"):
        model_spec.resolve(str(path))


def test_a_folder_for_inpainting_is_named_before_it_is_opened(own_folder: Path) -> None:
    path = own_folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "in_channels": 9}))
    with pytest.raises(Incompatible, match="for inpainting: its UNet reads 9 channels"):
        model_spec.require_weights(model_spec.resolve(str(own_folder)))


@pytest.mark.parametrize(
    ("architecture", "counts"),
    [
        ("sd1", {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}),
        ("sd2", {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840}),
        (
            "sdxl",
            {
                "unet": 2_567_463_684,
                "vae": 83_653_863,
                "text_encoder": 123_060_480,
                "text_encoder_2": 694_659_840,
            },
        ),
    ],
)
def test_the_shipped_configurations_are_of_the_published_sizes(architecture: str, counts: dict[str, int]) -> None:
    import diffusers
    import transformers

    from pmagic.bases import model_config

    folder = model_spec.SINGLE_FILES / architecture
    for part, count in counts.items():
        with torch.device("meta"):
            if part.startswith("text_encoder"):
                kind = transformers.CLIPTextModelWithProjection if part[-1] == "2" else transformers.CLIPTextModel
                model = kind(model_config.read_config(folder / part, transformers.CLIPTextConfig))
            else:
                kind = diffusers.UNet2DConditionModel if part == "unet" else diffusers.AutoencoderKL
                model_config.require_plain(folder / part / "config.json", kind)
                model = kind.from_config(model_config.read_json(folder / part / "config.json"))
        assert sum(each.numel() for each in model.parameters()) == count
