"""Loading: the three layouts open frozen and complete; an incomplete one is refused, with the name of the part."""

import hashlib
import json
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from pmagic.bases import loading
from pmagic.engine.conditioning import packed_kv, unet_in_compute_dtype
from pmagic.errors import Incompatible, UsageError, WeightsMissing
from pmagic.vision import clip

pytest_plugins = ["tiny"]


@pytest.mark.parametrize("layout", ["sd1", "sd2", "fp16"])
def test_every_layout_opens_frozen_in_float32(tiny_folders: dict[str, Path], layout: str) -> None:
    base = tiny.open_base(tiny_folders[layout])
    for name in loading.models_of(base.pipeline):
        model = getattr(base.pipeline, name)
        assert not model.training
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}
        assert not any(weight.requires_grad for weight in model.parameters())
    assert base.size == tiny.SIZE
    assert base.learner_dtype == torch.float32
    assert base.compute_dtype is None


def test_float64_is_kept_throughout(tiny_folders: dict[str, Path]) -> None:
    base = tiny.open_base(tiny_folders["sd1"], dtype="float64")
    assert base.pipeline.unet.dtype == base.learner_dtype == torch.float64


def test_fingerprint_tells_one_changed_weight(own_folder: Path, tiny_folders: dict[str, Path]) -> None:
    assert loading.fingerprint(own_folder) == loading.fingerprint(tiny_folders["sd1"])
    file = own_folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_out.bias"][0] += 1
    save_file(weights, file)
    assert loading.fingerprint(own_folder) != loading.fingerprint(tiny_folders["sd1"])


def test_the_fingerprint_of_a_base_of_one_encoder_reads_what_it_always_read(own_folder: Path) -> None:
    """Personas hold it: another formula would make strangers of them all."""
    total = hashlib.sha256()
    folders = ("text_encoder", "tokenizer", "unet", "vae")
    read = [path for each in folders for path in (own_folder / each).iterdir()]
    read = [path for path in read if path.suffix in {".safetensors", ".json", ".txt"}]
    for path in sorted([*read, own_folder / "scheduler" / "scheduler_config.json"]):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(own_folder).as_posix()}\n{content}\n".encode())
    (own_folder / "text_encoder_2").mkdir()
    (own_folder / "text_encoder_2" / "model.safetensors").write_bytes(b"of another base")
    assert loading.fingerprint(own_folder) == total.hexdigest()


def test_weights_hash_sees_one_changed_number(tiny_base: loading.Base) -> None:
    before = loading.weights_hash(tiny_base.pipeline)
    bias = tiny_base.pipeline.unet.conv_out.bias
    kept = bias.detach().clone()
    with torch.no_grad():
        bias[0] += 1e-3
        changed = loading.weights_hash(tiny_base.pipeline)
        bias.copy_(kept)
    assert changed != before
    assert loading.weights_hash(tiny_base.pipeline) == before


def test_a_missing_weight_is_refused_not_random(own_folder: Path) -> None:
    file = own_folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["conv_in.weight"]
    save_file(weights, file)
    with pytest.raises(Incompatible, match=r"lacks 1 weights \(conv_in.weight"):
        tiny.open_base(own_folder)


def test_a_folder_without_weights_is_refused(own_folder: Path) -> None:
    (own_folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(WeightsMissing, match="vae"):
        tiny.open_base(own_folder)


def test_a_folder_with_code_is_refused(own_folder: Path) -> None:
    (own_folder / "unet" / "evil.py").write_text("raise SystemExit")
    with pytest.raises(Incompatible, match="Python code"):
        tiny.open_base(own_folder)


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "predicts 'sample'"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 500}, "not trained on 1000 timesteps"),
    ],
)
def test_another_kind_of_model_is_refused(own_folder: Path, part: str, change: dict[str, object], said: str) -> None:
    path = own_folder / part
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(Incompatible, match=said):
        tiny.open_base(own_folder)


def test_unknown_device_and_type_are_usage_problems(tiny_base: loading.Base) -> None:
    with pytest.raises(UsageError, match="number type 'int3'"):
        loading.load(tiny_base.spec, dtype="int3")
    with pytest.raises(UsageError, match="device 'toaster'"):
        loading.load(tiny_base.spec, device="toaster")


def test_loading_prints_nothing(tiny_folders: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    base = tiny.open_base(tiny_folders["sd1"])
    assert isinstance(base.spec.clip, Path)
    clip.load(base.spec.clip)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("has", [False, True])
def test_bfloat16_on_a_processor_that_multiplies_it_and_only_there(
    tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, has: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    base = tiny.open_base(tiny_folders["sd1"], dtype="auto")
    assert base.compute_dtype is (torch.bfloat16 if has else None)
    assert base.computes_in == ("bfloat16" if has else "float32")


def test_weights_kept_in_the_fast_type_answer_with_the_bits_of_autocast(
    tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    kept, cast = (tiny.open_base(tiny_folders["sd1"], dtype=dtype) for dtype in ("auto", "float32"))
    unet = kept.pipeline.unet
    assert kept.weights_dtype == kept.learner_dtype == torch.float32
    assert {unet.conv_in.weight.dtype, unet.time_embedding.linear_1.bias.dtype} == {torch.bfloat16}
    assert unet.conv_norm_out.weight.dtype == torch.float32
    seed = torch.Generator().manual_seed(0)
    shape = (1, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    latents = torch.randn(shape, generator=seed)
    said = torch.randn(1, 5, unet.config.cross_attention_dim, generator=seed)
    with torch.no_grad(), packed_kv(unet), unet_in_compute_dtype(kept):
        (found,) = unet(latents, 500, encoder_hidden_states=said, return_dict=False)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        (expected,) = cast.pipeline.unet(latents, 500, encoder_hidden_states=said, return_dict=False)
    assert found.dtype == torch.float32 and torch.equal(found, expected.float())


def test_a_network_all_in_the_fast_type_is_asked_without_autocast(tiny_folders: dict[str, Path]) -> None:
    """As on a GPU."""
    exact, fast = tiny.open_base(tiny_folders["sd1"]), tiny.open_fast(tiny_folders["sd1"], fp32_norms=False)
    assert {weight.dtype for weight in fast.pipeline.unet.parameters()} == {torch.bfloat16}
    seed = torch.Generator().manual_seed(0)
    unet = exact.pipeline.unet
    latents = torch.randn(2, unet.config.in_channels, 8, 8, generator=seed)
    said = torch.randn(2, 5, unet.config.cross_attention_dim, generator=seed)
    norms: list[torch.dtype] = []
    hook = fast.pipeline.unet.conv_norm_out.register_forward_hook(
        lambda module, given, answer: norms.append(answer.dtype)
    )
    found = []
    for base in (exact, fast):
        with torch.no_grad(), packed_kv(base.pipeline.unet), unet_in_compute_dtype(base):
            found += base.pipeline.unet(latents, 500, encoder_hidden_states=said, return_dict=False)
    hook.remove()
    assert norms == [torch.bfloat16] and found[1].dtype == torch.float32
    assert (found[0] - found[1]).norm() / found[0].norm() < 0.03
    assert tiny.hooks_of(fast) == []
