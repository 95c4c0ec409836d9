"""CLIPSeg folders through transformers, and the error for one that cannot be used."""

import shutil
from pathlib import Path

import pytest
import torch
from packs import build_clipseg
from PIL import Image
from tiny import build_tokenizer, photo
from transformers import CLIPSegForImageSegmentation

from pmagic.bases import model_spec
from pmagic.errors import Incompatible, WeightsMissing
from pmagic.vision import clipseg


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clipseg")
    return build_clipseg(root / "clipseg", build_tokenizer(root / "words"))


def test_a_mask_is_as_large_as_its_picture_and_a_probability(folder: Path) -> None:
    mask = clipseg.load(folder).mask(photo(size=(50, 70)), "face")
    assert mask.shape == (70, 50)
    assert mask.dtype == torch.float32
    assert 0 <= float(mask.min()) < float(mask.max()) <= 1


def test_a_mask_is_the_mean_over_the_phrasings(folder: Path) -> None:
    """Against the library's own forward pass, one phrasing at a time."""
    opened = clipseg.load(folder)
    picture = photo(size=(32, 32))
    raw = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(1, 32, 32, 3).permute(0, 3, 1, 2)
    model = CLIPSegForImageSegmentation.from_pretrained(folder).eval()
    alone = []
    with torch.no_grad():
        for text in clipseg.PHRASINGS:
            ids = opened.tokenizer([text.format("dog")], return_tensors="pt")
            alone.append(model(**ids, pixel_values=raw.float() / 127.5 - 1).logits.sigmoid())
    want = torch.stack([each.reshape(32, 32) for each in alone]).mean(dim=0)
    assert torch.allclose(opened.mask(picture, "dog"), want, atol=1e-5)


def test_another_word_gives_another_mask(folder: Path) -> None:
    opened = clipseg.load(folder)
    assert not torch.allclose(opened.mask(photo(), "face"), opened.mask(photo(), "hat"), atol=1e-7)


def test_colours_are_brought_to_rgb(folder: Path) -> None:
    gray = photo().convert("L")
    opened = clipseg.load(folder)
    assert torch.equal(opened.mask(gray, "face"), opened.mask(gray.convert("RGB"), "face"))
    assert opened.mask(Image.new("RGBA", (9, 5)), "face").shape == (5, 9)


def test_a_folder_without_clipseg_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="there is no CLIPSeg in") as caught:
        clipseg.load(tmp_path)
    assert caught.value.next_step == f"restore the files in {tmp_path}"
    pulled = model_spec.place_of(model_spec.CLIPSEG_REPO)
    with pytest.raises(WeightsMissing) as caught:
        clipseg.load(pulled)
    assert caught.value.next_step == f"fetch it with `pmagic models pull {model_spec.CLIPSEG_REPO}`"
    pulled.mkdir(parents=True)  # what `models pull` takes for the whole
    with pytest.raises(WeightsMissing) as caught:
        clipseg.load(pulled)
    assert caught.value.next_step.startswith(
        f"remove it with `pmagic models rm {model_spec.CLIPSEG_REPO}`, then fetch it"
    )


def test_missing_words_are_refused(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "tokenizer.json").unlink()
    with pytest.raises(Incompatible, match="no usable tokenizer"):
        clipseg.load(broken)


def test_damaged_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    with pytest.raises(WeightsMissing, match="cannot be opened"):
        clipseg.load(broken)
