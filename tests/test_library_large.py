"""A bundle of more than 1 GiB, as of DreamBooth's whole difference: kept, verified and moved within stated memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pmagic.errors import UsageError
from pmagic.library import bundle
from pmagic.library.store import Library

VALUES = 600 * 2**20  # 1.2 GiB in float16
KEEP = f"""
import numpy as np
tensor = np.arange({VALUES}, dtype=np.uint32).astype(np.uint16)
tensor &= 0x3bff  # finite numbers
library.save("big", Persona(
    method="dreambooth", base="mini", fingerprint="a" * 64, word="face", bounds=REFERENCE_BOUNDS,
    tensors={{"weights.a": tensor.view(np.float16)}}, settings={{"recipe": "tuned", "tokens": 2}},
))
"""
STEPS = {
    "save": KEEP,
    "verify": 'assert library.verify("big")[1].tensors',
    "load": 'assert library.load("big")[1].tensors["weights.a"].nbytes == 2 * {VALUES}',
    "export": 'atomic_io.publish_file(library.export("big")[1], Path("big.pmagic"))',
    "import": 'assert str(library.import_archive(Path("big.pmagic"), "again")) == "again@1"',
}
# Sizes of the tensors that are held at once, at most; looking for NaN takes half of one. Saving makes the tensor first.
COPIES = {"save": 3.5, "verify": 1.1, "load": 1.6, "export": 2.6, "import": 2.6}


def peak(step: str, root: Path) -> float:
    """Peak memory of a process that does this step, in sizes of the tensors beyond its libraries' own."""
    code = f"""
from pathlib import Path
import numpy
from pmagic import atomic_io
from pmagic.library.store import Library
from pmagic.persona import REFERENCE_BOUNDS, Persona
library = Library(Path("library"))
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before = peak()
{STEPS[step].replace("{VALUES}", str(VALUES))}
print((peak() - before) * 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) / (2 * VALUES)


@pytest.mark.slow
def test_a_bundle_of_more_than_a_gibibyte(tmp_path: Path, record_property) -> None:
    peaks = {step: peak(step, tmp_path) for step in STEPS}
    print(peaks)
    record_property("peaks", peaks)
    assert all(value < COPIES[step] for step, value in peaks.items()), peaks
    library = Library(tmp_path / "library")
    assert b"\nformat = 2\n" in (tmp_path / "library" / "big" / "v0001" / "persona.toml").read_bytes()
    assert library.verify("again")[1].tensors == library.verify("big")[1].tensors
    assert bundle.summary(tmp_path / "library" / "big" / "v0001").method == "dreambooth"


def test_the_format_is_that_of_the_size(persona, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pmagic that reads up to 1 GiB is told of another format, and no smaller persona is kept from it."""
    size = len(bundle.pack(persona())[bundle.TENSORS])
    for limit, number in [(size, 1), (size - 1, 2)]:
        monkeypatch.setattr(bundle, "FIRST_TENSORS", limit)
        files = bundle.pack(persona())
        assert f"\nformat = {number}\n".encode() in files[bundle.TOML]
        assert bundle.unpack(files).tensors.keys() == persona().tensors.keys()
    monkeypatch.setitem(bundle.MAX_BYTES, bundle.TENSORS, size - 1)
    with pytest.raises(UsageError, match=r"bytes, .* at most"):
        bundle.pack(persona())


def test_tensors_are_written_as_the_library_writes_them() -> None:
    import safetensors.numpy

    from pmagic.library import tensors

    source = np.random.default_rng(0)
    for number in range(100):
        arrays = {}
        for name in source.choice(list("abZ_"), source.integers(0, 5), replace=False):
            shape = tuple(source.integers(0, 4, source.integers(0, 4)))
            array = source.normal(size=shape).astype(source.choice([np.float16, np.float32]))
            arrays[f"{name}.{number}"] = array.T if source.random() < 0.3 else array
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        plain = {name: np.array(array, order="C") for name, array in arrays.items()}
        assert bytes(tensors.write(arrays)) == safetensors.numpy.save(plain)
