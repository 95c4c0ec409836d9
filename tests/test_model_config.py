"""A folder's configuration chooses sizes, never code."""

import json
from pathlib import Path

import pytest
from tiny import own_folder, tiny_folders  # noqa: F401 - fixtures

from pmagic.bases import card, loading, model_config
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
    base = loading.load(card.find(str(own_folder)), device="cpu", dtype="float32")
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
        loading.load(card.find(str(own_folder)), device="cpu", dtype="float32")


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
