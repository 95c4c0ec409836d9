"""A folder's configuration chooses sizes, never code."""

import json
import sys
from pathlib import Path

import pytest
from tiny import own_folder, tiny_folders  # noqa: F401 - fixtures

from pmagic.bases import loading, model_config, model_spec
from pmagic.errors import Incompatible


def change(folder: Path, part: str, **entries: object) -> None:
    path = folder / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_text_encoder_cannot_choose_its_attention(
    own_folder: Path,  # noqa: F811
    key: str,
    no_network: None,
) -> None:
    change(own_folder, "text_encoder", **{key: "owner/kernel"})
    base = loading.load(model_spec.resolve(str(own_folder)), device="cpu", dtype="float32")
    assert base.pipeline.text_encoder.config._attn_implementation == model_config.ATTENTION


@pytest.mark.parametrize("part", ["unet", "vae"])
@pytest.mark.parametrize("key", ["quantization_config", "auto_map"])
def test_a_network_that_asks_for_more_than_its_shape_is_refused(
    own_folder: Path,  # noqa: F811
    part: str,
    key: str,
) -> None:
    change(own_folder, part, **{key: {"quant_method": "owner/kernel"}})
    with pytest.raises(Incompatible, match=key):
        loading.load(model_spec.resolve(str(own_folder)), device="cpu", dtype="float32")


@pytest.mark.parametrize("text", ["[]", "{", '{"hidden_size": "x"}', "[" * 100_000, '{"a": "' + "x" * 300_000 + '"}'])
def test_a_configuration_that_cannot_be_used_ends_in_one_message(tmp_path: Path, text: str) -> None:
    from transformers import CLIPTextConfig

    (tmp_path / "config.json").write_text(text)
    with pytest.raises(Incompatible, match=r"config\.json"):
        model_config.read_config(tmp_path, CLIPTextConfig)


def test_the_parts_of_a_clip_are_read_by_the_same_list(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPTextConfig

    text = {"hidden_size": 64, "attn_implementation": "owner/kernel", "num_attention_heads": 4}
    table = {"model_type": "clip", "projection_dim": 32, "text_config": text, "auto_map": {"AutoModel": "x.y"}}
    (tmp_path / "config.json").write_text(json.dumps(table))
    whole = model_config.read_config(tmp_path, CLIPConfig)
    assert (whole.projection_dim, whole.text_config.hidden_size) == (32, 64)
    assert not hasattr(whole, "auto_map") and whole.text_config._attn_implementation in (None, model_config.ATTENTION)
    assert model_config.read_config(tmp_path, CLIPTextConfig).hidden_size == 64


def test_model_index_names_no_module_to_import(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Opened as a whole, a pipeline imports the modules that its model_index.json names."""
    (own_folder / "hostile.txt").write_text("raise SystemExit('ran')")
    (own_folder / "hostile.txt").rename(own_folder.parent / "hostile_module.py")
    monkeypatch.syspath_prepend(str(own_folder.parent))
    path = own_folder / "model_index.json"
    index = json.loads(path.read_text())
    for part in ("scheduler", "tokenizer"):
        path.write_text(json.dumps({**index, part: ["hostile_module", "Anything"]}))
        with pytest.raises(Incompatible, match="hostile_module"):
            loading.load(model_spec.resolve(str(own_folder)), device="cpu", dtype="float32")
    assert "hostile_module" not in sys.modules


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_keys_that_no_network_has_may_hold_numbers_alone(own_folder: Path, part: str) -> None:  # noqa: F811
    change(own_folder, part, decay=0.9999, use_ema_warmup=False, _name_or_path="somewhere")
    assert loading.load(model_spec.resolve(str(own_folder)), device="cpu", dtype="float32")
    change(own_folder, part, kernel="owner/kernel")
    with pytest.raises(Incompatible, match="has the keys kernel, which pmagic does not support"):
        loading.load(model_spec.resolve(str(own_folder)), device="cpu", dtype="float32")


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"_class_name": "os"}, "names no scheduler of diffusers: 'os'"),
        ({"_class_name": ["a", "b"]}, "names no scheduler of diffusers"),
        ({"_class_name": "NoSuchScheduler"}, "names no scheduler of diffusers"),
        ({"num_train_timesteps": 10**12}, "was not trained on 1000 timesteps"),
        ({"beta_schedule": "none such"}, "cannot be opened"),
    ],
)
def test_a_scheduler_is_one_of_the_librarys_own(own_folder: Path, entries: dict[str, object], said: str) -> None:  # noqa: F811
    path = own_folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    with pytest.raises(Incompatible, match=said):
        loading.load(model_spec.resolve(str(own_folder)), device="cpu", dtype="float32")


def test_a_scheduler_keeps_what_others_of_its_family_ask_for(own_folder: Path) -> None:  # noqa: F811
    path = own_folder / "scheduler" / "scheduler_config.json"
    entries = {"_class_name": "PNDMScheduler", "algorithm_type": "dpmsolver++", "hook": {"module": "x"}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    config = loading.load(model_spec.resolve(str(own_folder)), device="cpu", dtype="float32").pipeline.scheduler.config
    assert config["algorithm_type"] == "dpmsolver++" and "hook" not in config


def test_the_hub_answers_nothing_while_a_model_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a process that was started without HF_HUB_OFFLINE; afterwards it is as it was."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with loading.quiet_libraries(), pytest.raises(OfflineModeIsEnabled):
        HfApi().model_info("owner/kernel")
    assert constants.HF_HUB_OFFLINE is False


def test_damage_to_a_folder_of_ones_own_is_not_to_be_pulled(own_folder: Path, home: Path) -> None:  # noqa: F811
    change(own_folder, "unet", cross_attention_dim=77)
    with pytest.raises(Incompatible, match="cannot be opened") as caught:
        loading.load(model_spec.resolve(str(own_folder)), device="cpu", dtype="float32")
    assert caught.value.next_step == f"restore the files in {own_folder}"
    pulled = home / "models" / "owner--model"
    pulled.parent.mkdir(parents=True, exist_ok=True)
    for observer in own_folder.parent.glob(f"{own_folder.name}-*"):
        observer.rename(pulled.parent / observer.name)
    own_folder.rename(pulled)
    with pytest.raises(Incompatible, match="cannot be opened") as caught:
        loading.load(model_spec.resolve("owner/model"), device="cpu", dtype="float32")
    assert (
        "`pmagic models rm owner/model`, then fetch it with `pmagic models pull owner/model`" in caught.value.next_step
    )
