"""The miniature's observers: their training data, their file layouts, and the shipped ones on new people."""

import runpy
import sys
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from tiny import build_tokenizer

from pmagic.experiments import eyes
from pmagic.mini import corpus, gallery, train_clipseg, train_detector, train_recognisers, vocabulary
from pmagic.vision import clipseg, faces
from pmagic.world.people import HELD_OUT
from pmagic.world.samples import PEOPLE
from pmagic.world.scenes import STYLES, Scene, rng_for


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WORK folder with a corpus and a gallery of a few pictures."""
    folder = tmp_path_factory.mktemp("work")
    corpus.make(folder / "corpus", 120)
    gallery.make(folder / "gallery", 60)
    vocabulary.make(folder / "base" / "tokenizer", corpus.load(folder / "corpus").words)
    return folder


# What they are trained on


def test_boxes_hold_the_landmarks_of_both_sets(work: Path) -> None:
    sharp, data = gallery.load(work / "gallery"), corpus.load(work / "corpus")
    drawn = list(zip(sharp.boxes, sharp.landmarks, strict=True))
    for where, points in zip(data.scenes, data.landmarks, strict=True):
        drawn.append((gallery.boxes_of(points, where), np.array(points, np.float32).reshape(-1, 5, 2)))
    counts = {len(boxes) for boxes, _ in drawn}
    assert counts == {0, 1, 2}
    for boxes, landmarks in drawn:
        assert len(boxes) == len(landmarks)
        for box, points in zip(boxes, landmarks, strict=True):
            assert (points > box[:2]).all() and (points < box[2:]).all()


def test_a_box_is_in_the_units_of_the_scene() -> None:
    (box,) = gallery.boxes([Scene(x=0.5, y=0.5, scale=0.2)])
    assert box == pytest.approx([0.5 - 0.172, 0.5 - 0.2, 0.5 + 0.172, 0.5 + 0.212])


def test_a_canvas_says_where_its_faces_are(work: Path) -> None:
    """Decoded as insightface does it, every positive cell gives the same face."""
    canvases = train_detector.Canvases(work, seed=1)
    pictures, states, places = canvases.batch()
    side = train_detector.CANVAS
    assert pictures.shape == (train_detector.BATCH, 3, side, side)
    assert {-1, 0, 1} == set(states.unique().tolist())
    seen = 0
    for state, place in zip(states == 1, places, strict=True):
        cells = torch.from_numpy(canvases.cells)[:, None].expand(-1, 2, -1)[state]  # (count, 2)
        if len(cells) == 0 or len(cells) > 36:
            continue
        seen += 1
        found = place[state] * train_detector.CELL
        corners = torch.cat([cells - found[:, :2], cells + found[:, 2:4]], dim=1)
        assert len(corners.round(decimals=2).unique(dim=0)) <= 2  # of one face, or of a pair
        points = cells[:, None] + found[:, 4:].unflatten(1, (5, 2))
        assert (points > corners[:, None, :2]).all() and (points < corners[:, None, 2:]).all()
    assert seen > 10


def test_crops_are_what_the_recogniser_will_see(work: Path) -> None:
    crops, who = train_recognisers.Portraits(work, seed=0).batch()
    count = train_recognisers.FROM_CORPUS + train_recognisers.FROM_GALLERY
    assert crops.shape == (count, 3, 56, 56)
    assert who.shape == (count,)
    assert int(who.min()) >= 0 and int(who.max()) < gallery.PEOPLE


def test_a_wrong_question_has_an_empty_answer(work: Path) -> None:
    questions = train_clipseg.Questions(work, seed=0)
    _, texts, masks = questions.batch()
    for text, mask in zip(texts, masks, strict=True):
        if any(word in text.split() for word in train_clipseg.SURROUNDINGS):
            assert not mask.any()
    assert (masks.flatten(1).amax(dim=1) > 0.9).sum() > len(texts) / 4


# Losses


def test_margins_touch_the_own_person_alone() -> None:
    cosines, who = torch.tensor([[0.5, 0.2], [-0.3, 0.9]]), torch.tensor([0, 1])
    angle = 24 * torch.cos(torch.acos(torch.tensor([0.5, 0.9])) + 0.3)
    assert torch.allclose(train_recognisers.arcface(cosines, who, 1.0).diag(), angle, atol=1e-4)
    assert torch.allclose(train_recognisers.cosface(cosines, who, 1.0).diag(), torch.tensor([6.0, 15.6]), atol=1e-4)
    for margin in (train_recognisers.arcface, train_recognisers.cosface):
        assert torch.allclose(margin(cosines, who, 1.0)[0, 1], torch.tensor(4.8))
        assert torch.allclose(margin(cosines, who, 0.0), 24 * cosines, atol=1e-4)


def test_a_perfect_detector_has_no_loss() -> None:
    states = torch.tensor([[[1, 0], [0, -1]]])
    places = torch.rand(1, 2, 2, 14) + 1
    answer = torch.cat([torch.where(states[..., None] == 1, 20.0, -20.0), places], dim=-1)
    assert sum(train_detector.losses(answer, states, places).values()).item() == pytest.approx(0, abs=1e-3)
    answer[0, 1, 1, 0] = 20.0  # where either is right, neither is wrong
    assert sum(train_detector.losses(answer, states, places).values()).item() == pytest.approx(0, abs=1e-3)
    answer[0, 0, 1, 0] = 20.0
    assert train_detector.losses(answer, states, places)["false"].item() > 10


# Layouts


@pytest.fixture(scope="module")
def packs(work: Path) -> Path:
    """Both trainings of a pack, each stopped after a second or two."""
    patch = pytest.MonkeyPatch()
    for module in (train_detector, train_recognisers):
        patch.setattr(module, "SETTLING", 2)
    train_detector.train(work, 0.005)
    train_recognisers.train(work, "a", 0.005)
    train_recognisers.train(work, "b", 0.005)
    yield work
    patch.undo()


def test_the_detector_is_scrfds_layout_at_any_size(packs: Path) -> None:
    session = onnxruntime.InferenceSession(str(packs / "faces_a" / "detector.onnx"))
    for side in (128, 320):
        x = np.random.default_rng(0).normal(size=(1, 3, side, side)).astype(np.float32)
        answers = session.run(None, {"picture": x})
        rows = [2 * (side // stride) ** 2 for stride in (8, 16, 32)]
        assert [each.shape for each in answers] == [(r, n) for n in (1, 4, 10) for r in rows]
        assert all(each.min() >= 0 and each.max() <= 1 for each in answers[:3])


@pytest.mark.parametrize("which", ["a", "b"])
def test_a_pack_is_opened_by_insightface(packs: Path, which: str) -> None:
    pack = faces.load(packs / f"faces_{which}")
    assert pack.recogniser.input_size == (112, 112)
    assert (pack.recogniser.input_mean, pack.recogniser.input_std) == (127.5, 127.5)
    face = faces.Face((10, 10, 60, 70), np.array([[20, 30], [45, 30], [33, 45], [24, 58], [42, 58]], np.float32), 1.0)
    assert pack.embed(Image.new("RGB", (80, 80), (200, 150, 120)), [face]).shape == (1, train_recognisers.WIDTH)
    assert eyes.agreement(packs / f"faces_{which}", pack) <= 1e-4


def test_a_training_that_is_done_is_not_begun_again(packs: Path) -> None:
    steps = train_detector.open_run(packs, 0.005).steps
    assert steps > 0
    train_detector.train(packs, 0.005)
    assert train_detector.open_run(packs, 0.005).steps == steps


def test_the_training_reads_clipseg_as_the_library_does(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path / "words")
    model = train_clipseg.network(tokenizer).eval()
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    tokens = tokenizer(["face", "a photo of a hat"], padding=True, return_tensors="pt")
    with torch.no_grad():
        want = model(**tokens, pixel_values=pixels).logits
        assert torch.allclose(train_clipseg.logits(model, pixels, tokens.input_ids), want, atol=1e-6)


def test_clipseg_is_opened_by_its_library(work: Path) -> None:
    train_clipseg.train(work, 0.005)
    opened = clipseg.load(work / "clipseg")
    assert opened.mask(Image.new("RGB", (100, 50)), "face").shape == (50, 100)


# Measures


def test_measures_have_known_answers() -> None:
    assert eyes.overlap(np.array([0, 0, 2, 2]), np.array([1, 0, 3, 2])) == pytest.approx(1 / 3)
    assert eyes.overlap(np.array([0, 0, 1, 1]), np.array([2, 2, 3, 3])) == 0
    mask = torch.zeros(4, 4)
    mask[:2] = 0.9
    exact = np.zeros((4, 4), np.uint8)
    exact[:, :2] = 255
    assert eyes.intersection(mask, exact) == pytest.approx(4 / 12)
    assert eyes.intersection(torch.zeros(4, 4), np.zeros((4, 4), np.uint8)) == 1


def test_a_face_counts_once_and_a_second_box_is_invented() -> None:
    ((drawing, where),) = eyes.portraits("photo", 1, 64)
    (box,) = gallery.boxes([where]) * 64
    right = faces.Face(tuple(box), drawing.landmarks[0] * 64, 1.0)
    aside = faces.Face(tuple(box), drawing.landmarks[0] * 64 + 9, 1.0)

    class Fake:
        def __init__(self, *answer: faces.Face) -> None:
            self.find = lambda picture: list(answer)

    assert eyes.match_faces(Fake(right), drawing, [where]) == (1, 0, [0.0])
    assert eyes.match_faces(Fake(right, right), drawing, [where])[:2] == (1, 1)
    assert eyes.match_faces(Fake(aside), drawing, [where])[:2] == (0, 1)
    assert eyes.match_faces(Fake(), drawing, [where])[:2] == (0, 0)


# The shipped ones, on people whom no training has met


@pytest.fixture(scope="module")
def shipped() -> Path:
    if not (eyes.WEIGHTS / "faces_a" / "recogniser.onnx").exists():
        pytest.skip("no weights are installed")
    return eyes.WEIGHTS


def test_they_are_small(shipped: Path) -> None:
    files = [p for part in ("faces_a", "faces_b", "clipseg") for p in (shipped / part).rglob("*") if p.is_file()]
    assert max(p.stat().st_size for p in files) < 15e6
    assert sum(p.stat().st_size for p in files) <= 10e6


def test_they_find_faces_and_invent_none(shipped: Path) -> None:
    pack = faces.load(shipped / "faces_a")
    hits = [eyes.match_faces(pack, d, [w]) for style in STYLES for d, w in eyes.portraits(style, 5, 64)]
    assert sum(found for found, _, _ in hits) >= 29
    assert sum(invented for _, invented, _ in hits) <= 1
    assert sum(len(pack.find(Image.fromarray(d.image))) for d in eyes.faceless(24, 64)) <= 1


@pytest.mark.parametrize("pack", ["faces_a", "faces_b"])
def test_they_tell_people_apart(shipped: Path, pack: str) -> None:
    opened = faces.load(shipped / pack)
    first, second = (
        np.stack(eyes.embeddings(opened, [d for d, _ in eyes.portraits("photo", 15, 64, take)])) for take in (1, 2)
    )
    cosines = first @ second.T
    assert (cosines.argmax(axis=1) == np.arange(15)).all()
    assert eyes.agreement(shipped / pack, opened) <= 1e-4


def test_they_see_where_a_word_is(shipped: Path) -> None:
    opened = clipseg.load(shipped / "clipseg")
    values = [
        eyes.intersection(opened.mask(Image.fromarray(d.image), "face"), d.mask)
        for d, _ in eyes.portraits("photo", 10, 64)
    ]
    assert np.mean(values) >= 0.85
    cup = eyes.faceless(2, 64)[1]
    assert float((opened.mask(Image.fromarray(cup.image), "face") >= 0.5).float().mean()) < 0.05


def test_nobody_measured_was_ever_trained_on() -> None:
    assert min(HELD_OUT, eyes.FIRST) > max(PEOPLE, gallery.PEOPLE)
    assert all(seed < gallery.PEOPLE for k in range(30) for seed in gallery.sighting(rng_for(2, k), 0, 50, 64).people)


@pytest.mark.parametrize("module", ["eyes", "naming"])
def test_measuring_a_folder_without_weights_says_so(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [module, str(tmp_path)])
    with pytest.raises(SystemExit) as ended, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it is imported already
        runpy.run_module(f"pmagic.experiments.{module}", run_name="__main__")
    assert ended.value.code == 2
    assert f"{tmp_path} has no folder" in capsys.readouterr().err
