"""No code and no network: no input can run as code, and only `models pull` uses the network."""

# ruff: noqa: F811 - the arguments of a test have the names of its fixtures

import ast
import pickle
from pathlib import Path

import pytest
from test_bases_model_spec import base_folder, observer_folder
from test_house import imports, modules
from test_library_bundle import _replace, folder  # noqa: F401 - a fixture

from pmagic.bases import model_spec
from pmagic.errors import BundleDamaged, Incompatible, WeightsMissing
from pmagic.library import bundle

NETWORK = {"socket", "http", "urllib", "ssl", "requests", "httpx", "huggingface_hub", "ftplib", "smtplib"}


def test_only_fetching_and_what_bars_it_know_the_network() -> None:
    """Besides those one module knows the names of the network's errors, and two servers listen on this machine."""
    users = {name for name, tree in modules() for each, _ in imports(tree) if each.split(".")[0] in NETWORK}
    local = {f"pmagic.serving.{name}" for name in ("client", "server", "socket_file")} | {"pmagic.study.server"}
    assert users <= {"pmagic.bases.fetching", "pmagic.bases.offline", "pmagic.network", *local}


def test_no_pickles_and_no_remote_code() -> None:
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("torch.load", "torch.save", "pickle.load", "pickle.loads", "eval", "exec"), name
                given = {each.arg for each in node.keywords}
                assert not given & {"trust_remote_code", "custom_pipeline"}, f"{name}:{node.lineno}"
                if called.endswith(".from_pretrained") and "Tokenizer" not in called and "mini" not in name:
                    assert {"local_files_only", "use_safetensors"} <= given, f"{name}:{node.lineno}"


def test_a_pickle_is_never_opened(folder: Path, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "pwned",))

    _replace(folder, "tensors.safetensors", pickle.dumps(Hostile()))
    with pytest.raises(BundleDamaged, match=r"tensors\.safetensors"):
        bundle.read(folder)
    assert not (tmp_path / "pwned").exists()


def test_weights_that_are_pickles_are_missing(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base", '[observers]\nclip = "../clip"')
    observer_folder(tmp_path / "clip")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(WeightsMissing, match="unet: only weights as pickles"):
        model_spec.require_weights(model_spec.resolve(str(folder)))


def test_a_base_folder_with_code_is_refused(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    (folder / "unet" / "custom.py").write_text("import os")
    with pytest.raises(Incompatible, match=r"holds Python code \(custom\.py\)"):
        model_spec.require_weights(model_spec.resolve(str(folder)))
