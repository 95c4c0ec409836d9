"""LoRA files of other programs: what pmagic draws with them is what diffusers draws, and nothing is lost in silence."""

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path

import lora_samples
import numpy as np
import pytest
import torch
from lora_samples import by_diffusers, by_pmagic, distance, kohya, write
from typer.testing import CliRunner

from pmagic.bases import loading
from pmagic.cli.app import app
from pmagic.engine import composing, rendering, token_batch
from pmagic.engine.recipes import RenderSettings
from pmagic.errors import BundleDamaged, NotFound, UsageError
from pmagic.library import lora_file
from pmagic.library.store import Library

pytest.importorskip("peft", reason="diffusers loads LoRA files with peft")
pytest_plugins = ["tiny"]
runner = CliRunner()
WORD = "--word", "sks face"


def run(*arguments: object) -> str:
    done = runner.invoke(app, [str(each) for each in arguments])
    assert done.exit_code == 0, done.stderr
    return done.stdout


def bring(library: Library, file: Path, base: Path, *more: str):
    """The persona of a file, through the command line."""
    run("import", file, "--as", "lora", "--base", base, *(more or WORD))
    return library.load("lora")[1]


def samples(base: loading.Base) -> dict[str, dict]:
    every = kohya(base)
    attention = kohya(base, text=False, only=lora_samples.ATTENTION)
    old = {}
    for name, module in lora_samples.modules_of(base.pipeline.unet).items():
        if name.endswith(lora_samples.ATTENTION):
            up, down = lora_samples.factors(module, 2, torch.Generator().manual_seed(len(old)))
            path, _, leaf = name.removesuffix(".0").rpartition(".")
            old[f"unet.{path}.processor.{leaf}_lora.up.weight"] = up
            old[f"unet.{path}.processor.{leaf}_lora.down.weight"] = down
    return {
        "kohya, every layer and the text encoder": every,
        "kohya, without alphas": kohya(base, alpha=None),
        "kohya, in bfloat16": {name: each.bfloat16() for name, each in every.items()},
        "kohya, in float16": {name: each.half() for name, each in attention.items()},
        "diffusers, early names": old,
    }


@pytest.mark.parametrize("form", [
    "kohya, every layer and the text encoder", "kohya, without alphas", "kohya, in bfloat16", "kohya, in float16",
    "diffusers, early names",
])  # fmt: skip
def test_an_imported_lora_is_what_diffusers_makes_of_it(
    tiny_folders: dict[str, Path], tiny_base: loading.Base, tmp_path: Path, library: Library, form: str
) -> None:
    before = loading.weights_hash(tiny_base.pipeline)
    bare = lora_samples.outputs(tiny_base.pipeline, *lora_samples.inputs(tiny_base))
    file = write(tmp_path / "a.safetensors", samples(tiny_base)[form])
    persona = bring(library, file, tiny_folders["sd1"])
    own, theirs = by_pmagic(tiny_base, persona), by_diffusers(tiny_base, tiny_folders["sd1"], file)
    assert distance(own[0], theirs[0]) < 1e-5 and distance(own[1], theirs[1]) < 1e-5
    assert distance(own[1], bare[1]) > 0.05
    assert (distance(own[0], bare[0]) > 0.01) == any(name.startswith("lora_te_") for name in samples(tiny_base)[form])
    assert loading.weights_hash(tiny_base.pipeline) == before


def with_peft(folder: Path, **settings: object):
    """diffusers' pipeline with a new adapter of peft in the UNet, its factors random."""
    import peft
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)
    config = peft.LoraConfig(
        **{
            "r": 4,
            "lora_alpha": 6,
            "target_modules": ["to_q", "to_out.0", "conv1"],
            "init_lora_weights": False,
            **settings,
        }
    )
    torch.manual_seed(1)
    pipeline.unet.add_adapter(config)
    return pipeline, config


@pytest.mark.parametrize(
    "settings",
    [{}, {"use_rslora": True}, {"rank_pattern": {"conv1": 2}, "alpha_pattern": {"conv1": 5.0}}],
    ids=["alpha", "rslora", "patterns"],
)
def test_the_strength_in_the_header_is_applied(
    tiny_folders: dict[str, Path], tiny_base: loading.Base, tmp_path: Path, library: Library, settings: dict
) -> None:
    """Files that diffusers writes have no alpha tensors; their configuration is in the header."""
    from peft.utils import get_peft_model_state_dict

    pipeline, config = with_peft(tiny_folders["sd1"], **settings)
    pipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(pipeline.unet),
        unet_lora_adapter_metadata=config.to_dict(),
        weight_name="a.safetensors",
    )
    persona = bring(library, tmp_path / "a.safetensors", tiny_folders["sd1"])
    own = by_pmagic(tiny_base, persona)
    assert distance(own[1], by_diffusers(tiny_base, tiny_folders["sd1"], tmp_path / "a.safetensors")[1]) < 1e-5
    assert persona.settings["imported"]["format"] == "diffusers"


def test_pefts_own_folder_needs_its_configuration(
    tiny_folders: dict[str, Path], tiny_base: loading.Base, tmp_path: Path, library: Library
) -> None:
    import peft
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(tiny_folders["sd1"] / "unet", local_files_only=True)
    config = peft.LoraConfig(r=4, lora_alpha=9, target_modules=["to_k", "to_v"], init_lora_weights=False)
    model = peft.get_peft_model(unet, config)
    model.save_pretrained(tmp_path)
    persona = bring(library, tmp_path / "adapter_model.safetensors", tiny_folders["sd1"])
    noise, t, ids = lora_samples.inputs(tiny_base)
    with torch.no_grad():
        encoded = tiny_base.pipeline.text_encoder(ids).last_hidden_state
        assert distance(by_pmagic(tiny_base, persona)[1], model(noise, t, encoder_hidden_states=encoded).sample) < 1e-5
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(AssertionError, match=r"stands in adapter_config\.json"):
        bring(library, tmp_path / "adapter_model.safetensors", tiny_folders["sd1"])


KEY = "lora_unet_mid_block_attentions_0_proj_in"
OTHERS = {
    "DoRA": {f"{KEY}.dora_scale": (4,)},
    "LoHa": {f"{KEY}.hada_w1_a": (4, 4)},
    "LoKr": {f"{KEY}.lokr_w1": (4, 4)},
    "LoCon with Tucker decomposition": {f"{KEY}.lora_mid.weight": (4, 4, 3, 3)},
    "a whole difference": {f"{KEY}.diff": (4, 4)},
    "OFT": {f"{KEY}.oft_blocks": (4, 4)},
    "LoRA for SDXL": {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": (4, 4)},
    "LoRA for another architecture": {"diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight": (4, 4)},
    "is no LoRA": {},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_are_refused_by_name(tiny_folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    tensors = {name: torch.ones(shape) for name, shape in OTHERS[kind].items()}
    tensors = tensors or {"cond_stage_model.weight": torch.ones(1)}
    file = write(tmp_path / "a.safetensors", tensors)
    done = runner.invoke(app, ["import", str(file), "--base", str(tiny_folders["sd1"]), *WORD])
    assert done.exit_code == 6 and kind in done.stderr and len(done.stderr.splitlines()) <= 3, done.stderr


def changed(name: str, value: torch.Tensor | None) -> Callable[[dict], dict]:
    """Another value under a name, or none."""

    def change(tensors: dict) -> dict:
        return {key: each for key, each in {**tensors, name: value}.items() if each is not None}

    return change


UP = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed(UP, None), "belongs to no factor"),
        (lambda tensors: changed(UP, None)(changed(f"{UP[:-15]}.alpha", None)(tensors)), "does not know its names"),
        (changed(UP, torch.ones(5, 3)), r"factors of \[5, 3\]"),
        (changed(UP.replace("lora_up", "lora_down"), torch.ones(3, 7)), r"factors of .* and \[3, 7\]"),
        (changed("lora_unet_down_blocks_0_bias.alpha", torch.tensor(1.0)), "belongs to no factor"),
        (changed(UP.replace(".lora_up.weight", ".bias"), torch.ones(3)), "diffusers does not know its names"),
    ],
)
def test_what_does_not_fit_is_refused(
    tiny_folders: dict[str, Path], tiny_base: loading.Base, tmp_path: Path, change: Callable, said: str
) -> None:
    file = write(tmp_path / "a.safetensors", change(kohya(tiny_base, text=False, only=lora_samples.ATTENTION)))
    done = runner.invoke(app, ["import", str(file), "--base", str(tiny_folders["sd1"]), *WORD])
    assert done.exit_code == 6 and not runner.invoke(app, ["list", "-q"]).stdout
    assert re.search(said, done.stderr), done.stderr


def test_another_base_is_named_with_what_the_file_says(
    tiny_folders: dict[str, Path], tiny_base: loading.Base, tmp_path: Path
) -> None:
    tensors = {f"lora_unet_down_blocks_9_conv.lora_{way}.weight": torch.ones(4, 4) for way in ("up", "down")}
    file = write(tmp_path / "a.safetensors", tensors, {"ss_base_model_version": "sdxl_base_v1-0"})
    done = runner.invoke(app, ["import", str(file), "--base", str(tiny_folders["sd1"]), *WORD])
    assert "has no such weight; the file says that it was made for 'sdxl_base_v1-0'" in done.stderr


def test_the_words_that_call_it_up(
    tiny_folders: dict[str, Path], tiny_base: loading.Base, tmp_path: Path, library: Library
) -> None:
    """The words are part of the prompt as they are: the same picture as when diffusers reads the whole prompt."""
    counts = json.dumps({"10_ohwx": {"ohwx woman": 12, "smile": 3, "x" * 99: 50}})
    file = write(tmp_path / "ohwx.safetensors", kohya(tiny_base), {"ss_tag_frequency": counts})
    base = "--base", str(tiny_folders["sd1"])
    done = runner.invoke(app, ["import", str(file), *base])
    assert done.exit_code == 2 and "its metadata name: ohwx woman, smile" in done.stderr
    for bad in ("", " ", "a {b}", "word " * 40):
        assert runner.invoke(app, ["import", str(file), *base, "--word", bad]).exit_code == 2
    assert run("import", file, *base, "--word", "nice  face") == "ohwx@1\n"
    assert run("import", file, *base, "--word", "nice face", "-q") == "ohwx@1\n"  # the same again
    _, persona = library.load("ohwx")
    assert (persona.word, persona.settings["tokens"], persona.method) == ("nice face", 2, "lora")
    with composing.apply_personas(tiny_base, {"": persona}) as schedules:
        script = rendering.encode_prompt(tiny_base, schedules, "a photo of {} in snow", RenderSettings(steps=2))
        plain = token_batch.encode_plain(tiny_base, "a photo of nice face in snow").pack()[0]
    assert all(torch.equal(row, plain) for row in script.rows.values())
    run("render", "ohwx", "in snow", "--steps", 2, "--out", tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_what_is_left_out_is_told_and_kept(
    tiny_folders: dict[str, Path], tiny_base: loading.Base, tmp_path: Path
) -> None:
    more = {"bundle_emb.ohwx.string_to_param.*": torch.ones(2, 32)}
    file = write(tmp_path / "a.safetensors", {**kohya(tiny_base), **more})
    done = runner.invoke(app, ["import", str(file), "--base", str(tiny_folders["sd1"]), *WORD])
    assert "warning: not imported: an embedding for a word (1 tensors)" in done.stderr
    assert "left_out: an embedding for a word (1 tensors)" in run("show", "a")


NAN = struct.pack("<f", float("nan"))


def entry(dtype: str = "F32", shape: tuple = (1,), offsets: tuple = (0, 4)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def raw(header: object, values: bytes = b"\0\0\0\0") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0" * 7, struct.pack("<Q", 2**63) + b"{}", raw(b"{"), raw({}), raw([]), raw(b'{"a":1,"a":1}'),
        raw({"a": 3}), raw({"a": entry("I8", (4,))}), raw({"a": entry("I64", (1,), (0, 8))}, bytes(8)),
        raw({"a": entry(offsets=(0, 8))}), raw({"a": entry(shape=(2**39, 2**39))}), raw({"a": entry(shape=(0,))}, b""),
        raw({"a": entry(shape=(1,) * 9)}), raw({"a": entry()}, bytes(8)), raw({"a": entry()}, bytes(3)),
        raw({"a": entry(shape=(1.0,))}), raw({"\x1b[2J": entry()}), raw({"a": entry()}, NAN),
        raw({"a": entry("BF16", (2,))}, b"\x80\x7f\x80\x7f"), raw({"a": entry(), "__metadata__": {"x": 3}}),
        raw({f"a{number}": entry() for number in range(lora_file.MAX_TENSORS + 1)}),
        raw({"a": entry(), "b": entry()}), raw(b"[" * 100_000),
    ],
)  # fmt: skip
def test_a_hostile_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(BundleDamaged):
        lora_file.read(tmp_path / "a.safetensors")


def test_bounds_and_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound):
        lora_file.read(tmp_path / "none.safetensors")
    (tmp_path / "a.safetensors").write_bytes(raw({"a": entry()}))
    assert lora_file.read(tmp_path / "a.safetensors").tensors["a"].tolist() == [0.0]
    monkeypatch.setattr(lora_file, "MAX_BYTES", 10)
    with pytest.raises(BundleDamaged, match="larger than 10 bytes"):
        lora_file.read(tmp_path / "a.safetensors")
    for suffix in lora_file.PICKLES:
        (tmp_path / f"b{suffix}").write_bytes(b"\x80\x04.")
        with pytest.raises(UsageError, match="is a pickle"):
            lora_file.read(tmp_path / f"b{suffix}")


def test_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    values = torch.randn(50, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = lora_file.read(write(tmp_path / "a.safetensors", {"a": values})).tensors["a"]
    assert np.array_equal(found, values.float().numpy())
