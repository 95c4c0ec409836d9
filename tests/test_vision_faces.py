"""Face packs through insightface: which faces are found where, and the error for a pack that cannot be used."""

from pathlib import Path

import numpy as np
import pytest
import torch
from packs import BOX, LANDMARKS, RedBlocks, _export, build_pack, photo_of
from PIL import Image

from pmagic.bases import model_spec
from pmagic.errors import Incompatible, WeightsMissing
from pmagic.vision import faces


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_pack(tmp_path_factory.mktemp("packs") / "pack")


@pytest.fixture(scope="module")
def pack(folder: Path) -> faces.FacePack:
    return faces.load(folder)


def test_a_face_is_found_where_it_is(pack: faces.FacePack) -> None:
    (face,) = pack.find(photo_of((5, 3)))
    left, top, right, bottom = BOX
    assert face.box == pytest.approx((40 - 8 * left, 24 - 8 * top, 40 + 8 * right, 24 + 8 * bottom))
    assert face.landmarks == pytest.approx(np.array(LANDMARKS) * 8 + [40, 24])
    assert face.landmarks.dtype == np.float32
    assert 0.99 < face.score <= 1
    assert face.area == pytest.approx(8 * 3.0 * 8 * 4.0)


def test_coordinates_are_those_of_the_picture_given_not_of_the_detector(pack: faces.FacePack) -> None:
    (face,) = pack.find(photo_of((5, 3)).resize((256, 256), Image.Resampling.NEAREST))
    assert face.landmarks[0] == pytest.approx([80, 48])


def test_no_face_is_an_empty_list_and_no_rows(pack: faces.FacePack) -> None:
    assert pack.find(photo_of()) == []
    assert pack.embed(photo_of(), []).shape[0] == 0


def test_several_faces_come_largest_first(pack: faces.FacePack) -> None:
    """Two of the same size in a picture twice as wide as high are both found; colours other than red are none."""
    found = pack.find(photo_of((2, 3), (11, 9)))
    assert len(found) == 2
    assert found[0].area >= found[1].area
    green = Image.fromarray(np.asarray(photo_of((2, 3)))[:, :, [1, 0, 2]])
    assert pack.find(green) == []


def test_embeddings_are_unit_rows_and_of_the_face_alone(pack: faces.FacePack) -> None:
    picture = photo_of((2, 3), (11, 9))
    found = pack.find(picture)
    rows = pack.embed(picture, found)
    assert rows.shape == (2, 16)
    assert np.linalg.norm(rows, axis=1) == pytest.approx([1, 1], abs=1e-6)
    first = next(k for k, face in enumerate(found) if face.landmarks[0, 0] < 64)
    pixels = np.asarray(picture).copy()
    pixels[:, 64:] = 0  # the half without it
    again = pack.embed(Image.fromarray(pixels), [found[first]])
    assert again[0] == pytest.approx(rows[first], abs=1e-5)


def test_a_folder_without_a_pack_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="no face pack in") as caught:
        faces.load(tmp_path / "nowhere")
    assert caught.value.next_step == f"restore the files in {tmp_path / 'nowhere'}"
    with pytest.raises(WeightsMissing) as caught:
        faces.load(model_spec.place_of("buffalo_l"))
    assert caught.value.next_step == "fetch it with `pmagic models pull buffalo_l`"
    assert not (tmp_path / "nowhere").exists()


def test_a_pack_without_a_recogniser_is_refused(tmp_path: Path) -> None:
    _export(RedBlocks(), torch.zeros(1, 3, 128, 128), tmp_path / "detector.onnx")
    with pytest.raises(Incompatible, match="has no recogniser"):
        faces.load(tmp_path)


def test_a_pack_without_a_detector_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "recogniser.onnx").write_bytes((folder / "recogniser.onnx").read_bytes())
    with pytest.raises(Incompatible, match="it has no detector"):
        faces.load(tmp_path)


def test_a_damaged_file_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("detector.onnx", "recogniser.onnx"):
        (tmp_path / name).write_bytes((folder / name).read_bytes()[:500])
    with pytest.raises(Incompatible, match="cannot be opened"):
        faces.load(tmp_path)
