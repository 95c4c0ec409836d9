"""An opened base is kept in a shell or a server only, one for each device, and only while its files are the same."""

# ruff: noqa: F811 - the arguments of a test have the names of its fixtures

from pathlib import Path

import pytest
from tiny import own_folder, tiny_folders  # noqa: F401 - fixtures

from pmagic.bases import loading, model_spec
from pmagic.tasks import opened_bases
from pmagic.tasks.opened_bases import open_base


def test_without_a_shell_or_a_server_nothing_is_kept(own_folder: Path) -> None:
    spec = model_spec.resolve(str(own_folder))
    first, second = (open_base(spec, device="cpu", dtype="float32") for _ in range(2))
    assert first.pipeline is not second.pipeline and not opened_bases.are_kept()


def test_a_kept_base_is_opened_once(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, load = [], loading.load

    def count(*words: object, **options: object) -> loading.Base:
        opened.append(options["dtype"])
        return load(*words, **options)

    monkeypatch.setattr(loading, "load", count)
    spec = model_spec.resolve(str(own_folder))
    with opened_bases.keep_open():
        first, second = (open_base(spec, device="cpu", dtype="float32") for _ in range(2))
        assert first.pipeline is second.pipeline and opened == ["float32"]
        open_base(spec, device="cpu", dtype="float64")
        open_base(spec, device="cpu", dtype="float32")  # only the last one of a device is kept
        assert opened == ["float32", "float64", "float32"]
        opened_bases.close_all()
        open_base(spec, device="cpu", dtype="float32")
        assert len(opened) == 4
    assert not opened_bases.are_kept()


def test_changed_files_are_read_anew_and_changed_defaults_too(own_folder: Path) -> None:
    with opened_bases.keep_open():
        first = open_base(model_spec.resolve(str(own_folder)), device="cpu", dtype="float32")
        toml = own_folder / "pmagic.toml"
        toml.write_text(toml.read_text() + "[render]\nsteps = 3\n")
        second = open_base(model_spec.resolve(str(own_folder)), device="cpu", dtype="float32")
        assert second.pipeline is first.pipeline and second.spec.defaults["render"] == {"steps": 3}
        weights = own_folder / "vae" / "diffusion_pytorch_model.safetensors"
        data = weights.read_bytes()
        weights.write_bytes(data[:-4] + bytes(4))
        third = open_base(model_spec.resolve(str(own_folder)), device="cpu", dtype="float32")
        assert third.pipeline is not first.pipeline and third.fingerprint != first.fingerprint
