"""What a command imports before its work: no compiler, no distributed tensors, no package that it does not call."""

import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from tiny import tiny_folders  # noqa: F401 - a fixture

import pmagic
from pmagic.library.store import Library

UNUSED = (
    "torch._dynamo.eval_frame",
    "torch._inductor",
    "torch.distributed.tensor",
    "sympy",
    "scipy",
    "peft",
    "accelerate",
)
RUN = f"""
import sys
from pmagic.cli import app
sys.argv = ["pmagic", *sys.argv[1:]]
try:
    app.main()
finally:
    print("imported:", *(name for name in {UNUSED} if name in sys.modules), file=sys.stderr)
"""


def run(*words: str) -> tuple[str, str]:
    """stderr of a whole command in a process of its own, and which of UNUSED it imported."""
    done = subprocess.run([sys.executable, "-c", RUN, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    talk, _, imported = done.stderr.rpartition("imported:")
    return talk, imported.strip()


@pytest.fixture
def alice(library: Library, tiny_folders: dict[str, Path]) -> None:  # noqa: F811
    base = pmagic.open_base(str(tiny_folders["sd1"]), device="cpu", dtype="float32")
    learned = pmagic.learn(tiny.photo(3), base=base, recipe="reference", iterations=1, stages=(300, 700))
    pmagic.save(learned, "alice")


def test_drawing_imports_no_library_that_it_does_not_call(alice: None, tmp_path: Path) -> None:
    talk, imported = run("render", "alice", "at sea", "-n", "2", "--steps", "2", "--out", str(tmp_path))
    assert len(list(tmp_path.glob("*.png"))) == 2
    assert imported == "" and talk == ""


def test_the_compiler_is_imported_where_more_is_asked_of_it(tmp_path: Path) -> None:
    """A name or a submodule that has no stand-in, and a condition that is no plain truth value."""
    code = """
import sys
import torch
from pmagic.bases import light_imports
light_imports.enable()
light_imports.import_models()
assert "sympy" not in sys.modules and hasattr(torch, "_dynamo")
assert torch._dynamo.disable(len) is len and torch._dynamo.disable(recursive=False)(len) is len
from torch.fx.experimental.symbolic_shapes import ShapeEnv, expect_true
assert "sympy" in sys.modules and "torch._dynamo.eval_frame" not in sys.modules and expect_true(True)
import torch._dynamo.config
assert torch._dynamo.config.cache_size_limit and torch._dynamo.disable(len) is not len
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item() == 2
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_learning_with_a_compiler_imports_the_libraries_as_they_are(
    tmp_path: Path,
    library: Library,
    tiny_folders: dict[str, Path],  # noqa: F811
) -> None:
    tiny.photo(3).save(tmp_path / "a.png")
    words = ["learn", str(tmp_path / "a.png"), "--name", "a", "--base", str(tiny_folders["sd1"]), "--compile"]
    rest = ["--recipe", "reference", "--memory", "low"]
    done = subprocess.run([sys.executable, "-c", RUN, *words, *rest], capture_output=True, text=True)
    assert done.returncode == 2 and "--compile does not work with low memory" in done.stderr
    assert "imported: torch._dynamo.eval_frame" in done.stderr


def test_a_notebook_imports_the_libraries_as_they_are() -> None:
    code = """
from pmagic.tasks import base_options
base_options.quiet_libraries()
import transformers, diffusers
assert transformers.utils.is_scipy_available() and diffusers.utils.is_scipy_available()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
