"""The recogniser in torch: the same numbers as onnxruntime, gradients, and insightface's alignment."""

import warnings
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from packs import Embedded, Mobile, build_pack, iresnet

from pmagic.errors import Incompatible, WeightsMissing
from pmagic.vision import faces, recogniser

KINDS = {"iresnet": iresnet, "mobile": Mobile, "embedded": Embedded}


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("packs")
    return {name: build_pack(root / name, make()) for name, make in KINDS.items()}


def crops(count: int = 20) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 112, 112, 3), dtype=np.uint8)


def as_pixels(images: np.ndarray) -> torch.Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_onnxruntime_on_20_crops(packs: dict[str, Path], kind: str) -> None:
    known = faces.load(packs[kind]).recogniser
    want = np.concatenate([known.get_feat(crop[:, :, ::-1]) for crop in crops()])  # insightface reads BGR
    got = recogniser.load(packs[kind])(as_pixels(crops())).numpy()
    assert got.shape == want.shape == (20, 16)
    assert np.abs(want).max() > 0.05
    assert np.abs(got - want).max() <= 1e-4


def test_a_graph_that_normalises_by_itself_gets_pixels_as_they_are(packs: dict[str, Path]) -> None:
    """insightface's rule: nodes named Sub and Mul among the first eight."""
    assert faces.load(packs["embedded"]).recogniser.input_std == 1.0
    assert recogniser.load(packs["embedded"]).scale == 127.5
    assert recogniser.load(packs["iresnet"]).scale == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_differences(packs: dict[str, Path], kind: str) -> None:
    network = recogniser.load(packs[kind], dtype=torch.float64)
    x = as_pixels(crops(1)).double().requires_grad_()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network(x).square().sum().backward()
    with torch.no_grad():
        step = 1e-7 * direction
        difference = (network(x + step).square().sum() - network(x - step).square().sum()) / 2e-7
    assert float((x.grad * direction).sum()) == pytest.approx(float(difference), rel=1e-4)


def test_it_is_frozen(packs: dict[str, Path]) -> None:
    network = recogniser.load(packs["iresnet"])
    assert not network.training
    assert not [p for p in network.parameters() if p.requires_grad]


def test_a_node_without_a_twin_is_named(packs: dict[str, Path], tmp_path: Path) -> None:
    for path in packs["iresnet"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    model = onnx.load(str(tmp_path / "recogniser.onnx"))
    next(node for node in model.graph.node if node.op_type == "Flatten").op_type = "Softsign"
    graph = model.graph
    with pytest.raises(Incompatible, match="node 'Softsign'") as caught:
        recogniser.Recogniser(graph, 127.5, 127.5)
    assert "--recipe reference" in caught.value.next_step


def test_a_missing_pack_is_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing):
        recogniser.load(tmp_path)


def some_landmarks(rng: np.random.Generator, around: tuple[float, float], spread: float) -> np.ndarray:
    angle, scale = rng.normal(0, 0.3), rng.uniform(0.6, 1.6)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (np.array(recogniser.TEMPLATE) - 56) @ turn.T * scale + around + rng.normal(0, spread, (5, 2))
    return points.astype(np.float32)


def test_alignment_is_insightfaces_within_its_rounding() -> None:
    from insightface.utils.face_align import norm_crop

    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (200, 160, 3), dtype=np.uint8), (0, 0), 2)
    points = [some_landmarks(rng, around, 3) for around in ((80, 100), (60, 120), (20, 20), (150, 190))]  # two cut off
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        want = np.stack([norm_crop(picture, each) for each in points]).astype(np.float32)
    pixels = as_pixels(np.stack([picture] * len(points)))
    got = recogniser.align(pixels, torch.from_numpy(np.stack(points)))
    got = ((got + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    assert np.abs(got - want).max() < 0.51
    assert (want[2] == 0).mean() > 0.05  # black outside, in both


def test_alignment_passes_gradients_to_the_pixels_it_saw() -> None:
    pixels = torch.zeros(1, 3, 64, 64, requires_grad=True)
    points = torch.from_numpy(some_landmarks(np.random.default_rng(3), (20, 20), 0) * 1.0)[None]
    recogniser.align(pixels, points * 0.5).sum().backward()
    seen = pixels.grad[0, 0] != 0
    assert seen.any()
    assert not seen[:, 60:].any()
