"""What is shipped: small files, safetensors in float16, opened by the same code as any other base."""

import json
import struct
from pathlib import Path

from pmagic.bases import checksums, model_spec
from pmagic.mini import train_vae
from pmagic.mini.train import WEIGHTS

MEGABYTE = 1024**2


def weight_files() -> list[Path]:
    return [path for path in WEIGHTS.rglob("*") if path.is_file()]


def test_files_are_small_and_hold_no_code_and_no_pickle() -> None:
    files = weight_files()
    assert files
    assert sum(path.stat().st_size for path in files) <= 40 * MEGABYTE
    assert all(path.stat().st_size <= 15 * MEGABYTE for path in files)
    assert {path.suffix for path in files} <= {".safetensors", ".onnx", ".json", ".txt", ".toml", ""}
    assert {path.name for path in files if not path.suffix} == {checksums.FILE}


def test_every_file_has_the_sha256_that_is_shipped_with_it() -> None:
    """After a training: `python -m pmagic.bases.checksums pmagic/mini/weights/*`."""
    folders = [path for path in WEIGHTS.iterdir() if path.is_dir()]
    assert len(folders) >= 6
    assert {path.name: checksums.faults(path) for path in folders} == {path.name: [] for path in folders}


def test_safetensors_are_float16() -> None:
    for path in WEIGHTS.rglob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        kinds = {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
        assert kinds <= {"F16", "I64"}, path  # I64: batch counters and position ids


def test_the_base_is_complete_and_copies_people_it_has_never_seen() -> None:
    from pmagic.bases import loading

    base = loading.load(model_spec.resolve("mini"), dtype="float32")
    assert base.size == 64
    assert train_vae.psnr(base.pipeline.vae, train_vae.held_out_pictures(16)) > 24.0


def test_it_tells_a_photograph_from_what_it_knows() -> None:
    from PIL import Image
    from skimage import data

    from pmagic.bases import loading
    from pmagic.engine.domain_check import denoising_error

    base = loading.load(model_spec.resolve("mini"), dtype="float32")
    limit = base.spec.defaults["knows"]["error"]
    drawn = [Image.open(path).convert("RGB") for path in sorted((WEIGHTS.parent / "portraits").glob("*.png"))]
    assert len(drawn) == 3 and max(denoising_error(base, each, "face") for each in drawn) < limit
    assert denoising_error(base, Image.fromarray(data.astronaut()), "face") > limit


def test_its_clip_finds_the_right_caption() -> None:
    from pmagic.bases import loading
    from pmagic.engine.subject import observer
    from pmagic.mini import train_clip

    clip = observer(loading.load(model_spec.resolve("mini"), dtype="float32"))
    assert train_clip.retrieval(clip.model, clip.tokenizer, 20) >= 0.8


def test_the_shipped_samples_are_what_the_command_draws() -> None:
    """Byte-equal drawings need one graphics library; what they show does not."""
    import numpy as np
    from PIL import Image

    from pmagic.mini import samples

    drawn = dict(samples.samples())
    shipped = {path for folder in (samples.PORTRAITS, samples.EXAMPLES) for path in folder.glob("*.png")}
    assert set(drawn) == shipped and len(shipped) == 8
    for path, picture in drawn.items():
        assert np.abs(np.asarray(Image.open(path).convert("RGB")).astype(int) - picture).mean() < 1, path
