"""Every adapter on the shelf keeps the contract; IP-Adapter's answers are those of diffusers' own loader."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import adapter_samples
import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch import Tensor

from pmagic import adapters, shelf
from pmagic.adapters import ip_adapter
from pmagic.bases import adapter_files, loading
from pmagic.engine import rendering
from pmagic.engine.conditioning import packed_kv
from pmagic.engine.recipes import RenderSettings
from pmagic.errors import Incompatible

pytest_plugins = ["tiny", "tiny_xl"]

SAMPLES: dict[str, Callable[[Path, Any], Path]] = {"ip_adapter": adapter_samples.build_ip_adapter}
LOOK = tiny.photo(5, (64, 48))


@pytest.fixture(params=["sd1", "sd2", "xl"])
def base(request: pytest.FixtureRequest) -> loading.Base:
    if request.param == "xl":
        return request.getfixturevalue("xl_base")
    return tiny.open_base(request.getfixturevalue("tiny_folders")[request.param])


def call_unet(base: loading.Base, rows: int = 2, **others: Any) -> Tensor:
    """The UNet's answer to fixed random inputs, half of them unconditional."""
    unet = base.pipeline.unet
    source = torch.Generator().manual_seed(1)
    noise = torch.randn(rows, 4, 8, 8, generator=source)
    text = torch.randn(rows, 77, sum(base.text_widths), generator=source)
    added = others.pop("added_cond_kwargs", {})
    if base.reads_pooled:
        added = added | {
            "text_embeds": torch.randn(rows, 24, generator=source),
            "time_ids": torch.tensor([[32.0, 32, 0, 0, 32, 32]] * rows),
        }
    with torch.no_grad(), packed_kv(unet):
        return unet(noise, 500, encoder_hidden_states=text, added_cond_kwargs=added or None, return_dict=False)[0]


def apply(base: loading.Base, looks: Mapping[str, Any], scale: float, kind: Any, **how: Any) -> Tensor:
    with kind.apply(base, looks, scale, **{"guided": True, "regions": {}, **how}):
        return call_unet(base)


@pytest.mark.parametrize("name", shelf.names("adapters"))
def test_contract(name: str, base: loading.Base, tmp_path: Path) -> None:
    kind: Any = shelf.take("adapters", name)
    assert kind.READS and kind.SOURCE and not kind.recognizes({})
    files = adapter_files.find(str(SAMPLES[name](tmp_path, base.pipeline.unet)))
    assert adapters.kind_of(files) is kind
    weights, processors = loading.weights_hash(base.pipeline), dict(base.pipeline.unet.attn_processors)
    plain = call_unet(base)
    looks = kind.encode(base, files, {"": [LOOK]})
    with kind.apply(base, looks, 1.0, guided=True, regions={}):
        assert loading.weights_hash(base.pipeline) == weights
        assert dict(base.pipeline.unet.attn_processors) == processors
        assert not torch.equal(call_unet(base), plain)
    assert torch.equal(apply(base, looks, 0.0, kind), plain)
    with pytest.raises(RuntimeError, match="stop"), kind.apply(base, looks, 1.0, guided=True, regions={}):
        raise RuntimeError("stop")
    assert tiny.hooks_of(base) == [] and torch.equal(call_unet(base), plain)
    again = kind.encode(base, files, {"": [LOOK]})
    assert again[""].identity == looks[""].identity
    assert kind.encode(base, files, {"": [tiny.photo(6)]})[""].identity != looks[""].identity
    other = SAMPLES[name](tmp_path / "other", other_unet(base))
    with pytest.raises(Incompatible, match="another base"):
        kind.encode(base, adapter_files.find(str(other)), {"": [LOOK]})


def other_unet(base: loading.Base) -> Any:
    """A UNet that reads a text of another width than the base's."""
    from diffusers import UNet2DConditionModel

    config = {**base.pipeline.unet.config, "cross_attention_dim": 24}
    return UNet2DConditionModel.from_config(config)


@pytest.mark.parametrize("photos", [1, 2])
@pytest.mark.parametrize("layout", sorted(adapter_samples.LAYOUTS))
def test_answers_are_those_of_diffusers_own_loader(
    base: loading.Base, tmp_path: Path, layout: str, photos: int
) -> None:
    files = adapter_files.find(str(adapter_samples.build_ip_adapter(tmp_path, base.pipeline.unet, layout)))
    looks = [tiny.photo(seed, (64, 48)) for seed in range(photos)]
    kind = adapters.kind_of(files)
    ours = {scale: apply(base, kind.encode(base, files, {"": looks}), scale, kind) for scale in (0.6, 1.0)}
    stock = tiny.open_base(base.spec.local_folder)
    theirs = load_stock(stock, files, looks)
    for scale, answer in ours.items():
        stock.pipeline.set_ip_adapter_scale(scale)
        expected = call_unet(stock, added_cond_kwargs={"image_embeds": theirs})
        assert (answer - expected).abs().max() < 2e-6
        assert (answer - call_unet(base)).abs().max() > 1e-3


def load_stock(stock: loading.Base, files: adapter_files.AdapterFiles, looks: list[Image.Image]) -> list[Tensor]:
    """Loads the adapter into the base by diffusers. Returns the embeddings that its UNet then needs."""
    pipeline: Any = stock.pipeline
    folder = str(files.path.parent)
    with loading.quiet_libraries():
        pipeline.load_ip_adapter(
            folder, subfolder="", weight_name=files.path.name, image_encoder_folder="image_encoder"
        )
    return pipeline.prepare_ip_adapter_image_embeds([looks], None, stock.device, 1, True)


def test_regions_read_their_own_look(tiny_base: loading.Base, tmp_path: Path) -> None:
    files = adapter_files.find(str(adapter_samples.build_ip_adapter(tmp_path, tiny_base.pipeline.unet, "plus")))
    kind = adapters.kind_of(files)
    one, two = (kind.encode(tiny_base, files, {"": [tiny.photo(seed)]})[""] for seed in (1, 2))
    halves = {"alice": (0.0, 0.0, 0.5, 1.0), "bob": (0.5, 0.0, 1.0, 1.0)}
    everywhere = apply(tiny_base, {"": one}, 1.0, kind)
    same = apply(tiny_base, {"alice": one, "bob": one}, 1.0, kind, regions=halves)
    assert (same - everywhere).abs().max() < 1e-5
    pair = apply(tiny_base, {"alice": one, "bob": two}, 1.0, kind, regions=halves)
    swapped = apply(tiny_base, {"alice": two, "bob": one}, 1.0, kind, regions=halves)
    assert torch.equal(pair, apply(tiny_base, {"bob": two, "alice": one}, 1.0, kind, regions=halves))
    assert (pair - swapped).abs().max() > 1e-3
    with pytest.raises(Incompatible, match="carl"):
        apply(tiny_base, {"carl": one}, 1.0, kind, regions=halves)


def test_without_guidance_every_row_reads_the_look(tiny_base: loading.Base, tmp_path: Path) -> None:
    files = adapter_files.find(str(adapter_samples.build_ip_adapter(tmp_path, tiny_base.pipeline.unet)))
    kind = adapters.kind_of(files)
    looks = kind.encode(tiny_base, files, {"": [LOOK]})
    plain, guided = call_unet(tiny_base), apply(tiny_base, looks, 1.0, kind)
    unguided = apply(tiny_base, looks, 1.0, kind, guided=False)
    assert torch.allclose(guided[1], unguided[1], atol=1e-6)
    assert not torch.allclose(guided[0], unguided[0], atol=1e-4)
    assert not torch.allclose(guided[0], plain[0], atol=1e-4)  # of no picture, whose tokens are not nothing


@pytest.mark.parametrize("fp32_norms", [True, False])
def test_a_look_is_read_in_bfloat16(tiny_folders: dict[str, Path], tmp_path: Path, fp32_norms: bool) -> None:
    """As on a CPU and as on a GPU that multiplies bfloat16: both halves of the numbers are cast where they must be."""
    settings = RenderSettings(steps=2, guidance=3.0, batch=2)
    drawn = {}
    for base in (tiny.open_base(tiny_folders["sd1"]), tiny.open_fast(tiny_folders["sd1"], fp32_norms=fp32_norms)):
        files = adapter_files.find(str(adapter_samples.build_ip_adapter(tmp_path, base.pipeline.unet, "plus")))
        looks = ip_adapter.encode(base, files, {"": [LOOK]})
        for scale in (0.0, 1.0):
            with ip_adapter.apply(base, looks, scale, guided=True, regions={}):
                images = rendering.render(base, None, "a photo of {}", [1, 2], settings, word="face")
            drawn[base.compute_dtype, scale] = np.stack([np.asarray(each, dtype=float) for each in images])
    for scale in (0.0, 1.0):
        assert abs(drawn[None, scale] - drawn[torch.bfloat16, scale]).mean() < 2
    assert abs(drawn[None, 0.0] - drawn[None, 1.0]).mean() > 4
