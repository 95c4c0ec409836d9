"""A tiny base on which a whole evaluation takes seconds: two face packs, a few iterations, a few sampler steps."""

import shutil
from pathlib import Path

import packs
import pytest
from PIL import Image

PROMPTS = ("a photo of {} as a cowboy", "oil painting of {}")
LEARN = 'iterations = 2\nprobe_iterations = 2\ntemplates = ["a photo of a {}"]\nopen_prompts = ["{} as a cowboy"]\n'
RENDER = "steps = 4\nguidance = 2.0\n"


@pytest.fixture(scope="session")
def eval_folder(faced_folder: Path) -> Path:
    """The faced base with a judge of its own."""
    folder = shutil.copytree(faced_folder, faced_folder.with_name("evaluated"))
    judge = packs.build_pack(folder.with_name("evaluated-judge"), seed=11)
    config = folder / "pmagic.toml"
    config.write_text(f'{config.read_text()}judge = "../{judge.name}"\n[learn]\n{LEARN}[render]\n{RENDER}')
    return folder


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A folder of three people: two photos, and a folder of two photos."""
    folder = tmp_path / "people"
    (folder / "chiara").mkdir(parents=True)
    face(5, 5).save(folder / "alice.png")
    face(8, 6).save(folder / "bruno.png")
    face(6, 8).save(folder / "chiara" / "1.png")
    face(7, 7).save(folder / "chiara" / "2.png")
    return folder


@pytest.fixture
def prompts_file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("# two\n" + "\n\n".join(PROMPTS) + "\n")
    return path


def face(column: int, row: int) -> Image.Image:
    """A photo with one face."""
    return packs.photo_of((column, row))
