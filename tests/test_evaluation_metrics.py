"""Every metric on the shelf keeps the contract; likeness and text have known answers."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import packs
import pytest
from PIL import Image

from pmagic import shelf
from pmagic.bases import model_spec as specs
from pmagic.datasets import Individual
from pmagic.engine import subject
from pmagic.errors import Incompatible, PhotoRefused, WeightsMissing
from pmagic.evaluation import metrics, observers, prompts, scales
from pmagic.evaluation.eval_config import EvalSubject
from pmagic.evaluation.metrics import Sample, Scale
from pmagic.evaluation.observers import Observers
from pmagic.pictures import Photo

pytest_plugins = ["tiny"]

PROMPTS = ("a photo of the face as cowboy", "oil painting")


def alice(photos: list, unseen: list) -> EvalSubject:
    files = tuple(f"{number}.png" for number in range(len(photos) + len(unseen)))
    return EvalSubject(
        number=1,
        name="alice",
        source=Individual(name="alice", learned=()),
        hashes=files,
        files=files,
        learned=len(photos),
        photos=tuple(photos),
        unseen=tuple(unseen),
    )


@pytest.fixture(scope="module")
def eyes(eval_folder: Path) -> Observers:
    return observers.observers(specs.resolve(str(eval_folder)), "cpu")


@pytest.fixture(scope="module")
def case(eyes: Observers) -> Sample:
    """A copy of the photo, another face, nobody."""
    photo, other = packs.photo_of((5, 5)), packs.photo_of((9, 7), (3, 3))
    known = eyes.known(alice([photo], [other]))
    return Sample(
        pictures=[photo, other, packs.photo_of()],
        prompt=1,
        prompts=PROMPTS,
        learned=known.learned,
        unseen=known.unseen,
        scans=known.scans,
    )


@pytest.mark.parametrize("name", shelf.names(metrics.SHELF))
def test_contract(name: str, eyes: Observers, case: Sample) -> None:
    metric = shelf.take(metrics.SHELF, name)
    assert isinstance(metric.ORDER, int)
    found = metric.measure(eyes, case)
    assert found.keys() == metric.COLUMNS.keys()
    assert not metric.PRIMARY or metric.PRIMARY in found
    for values in found.values():
        assert len(values) == len(case.pictures)
        assert all(value is None or np.isfinite(value) for value in values)


def test_columns_have_names_of_their_own_and_the_chief_ones_stand_first() -> None:
    told = [column for name in shelf.names(metrics.SHELF) for column in shelf.take(metrics.SHELF, name).COLUMNS]
    assert len(set(told)) == len(told)
    assert list(metrics.columns())[:2] == metrics.primaries() == ["t_sim", "i_pre"]


def test_tables_have_the_order_that_metrics_state(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(metrics.table_columns()) == [
        "t_sim", "i_pre", "t_cosine", "i_found", "i_unseen", "detected", "obeyed", "of_the_way", "one_face",
        "x_copied", "size_copied",
    ]  # fmt: skip
    monkeypatch.setattr(shelf.take(metrics.SHELF, "i_pre"), "ORDER", 5)
    assert metrics.primaries() == ["i_pre", "t_sim"] == list(metrics.columns())[:2]


def test_a_metric_may_look_at_the_photos_and_they_are_read_once_if_it_does(case: Sample) -> None:
    read = []

    def photos(kind: str) -> list[Image.Image]:
        read.append(kind)
        return [packs.photo_of((5, 5))]

    asked = replace(case, read_learned=lambda: photos("learned"), read_unseen=lambda: photos("unseen"))
    assert read == []
    assert asked.learned_photos is asked.learned_photos and len(asked.unseen_photos) == 1
    assert read == ["learned", "unseen"]
    assert not case.learned_photos and not case.unseen_photos  # of a case without any


def test_slopes_are_tabled_and_what_they_are_read_from_is_not() -> None:
    for name, slope in metrics.slopes().items():
        assert {slope.x, slope.y} <= metrics.columns().keys()
        assert name in metrics.table_columns() and not {slope.x, slope.y, name} & metrics.columns().keys() - {
            slope.x,
            slope.y,
        }
        assert not {slope.x, slope.y} & metrics.table_columns().keys()
    assert (
        set(metrics.paired_columns()) <= metrics.columns().keys()
        and metrics.paired_columns()[:2] == metrics.primaries()
    )
    assert {"one_face", "of_the_way"} <= set(metrics.paired_columns())


def test_one_face_is_exactly_one(eyes: Observers, case: Sample) -> None:
    two = packs.photo_of((3, 5), (11, 9))
    counted = metrics.measure(eyes, replace(case, pictures=[*case.pictures, two]))
    assert counted["one_face"] == [1, 0, 0, 0]  # a face, two, nobody, two
    assert counted["detected"] == [1, 1, 0, 1]


def test_a_copy_of_the_photo_has_the_photos_layout(eyes: Observers, case: Sample) -> None:
    """Of a face in cell (5, 5) of 16 the eyes' middle is half a cell to the right, and the mouth one cell below."""
    counted = metrics.measure(eyes, case)
    assert counted["x_drawn"][0] == counted["x_photo"][0] == pytest.approx(5.5 / 16, abs=1e-4)
    assert counted["log_size_drawn"][0] == counted["log_size_photo"][0] == pytest.approx(math.log(1 / 16), abs=0.01)
    assert counted["x_drawn"][1] - counted["x_drawn"][0] == pytest.approx(-2 / 16, abs=1e-4)  # of two alike the first
    assert counted["x_drawn"][2] is None and counted["log_size_drawn"][2] is None


def test_of_the_way_is_nothing_for_strangers_and_all_for_the_person(eyes: Observers, case: Sample) -> None:
    own, other = (float(case.learned[0] @ eyes.face(picture)) for picture in case.pictures[:2])
    counted = metrics.measure(eyes, replace(case, scale=Scale(strangers=other, person=own)))
    assert counted["of_the_way"] == pytest.approx([1, 0, 0], abs=1e-3)
    assert metrics.measure(eyes, case)["of_the_way"] == [None] * 3


def test_a_scale_lies_between_strangers_and_the_people_themselves(eyes: Observers) -> None:
    def one(number: int, photo: Image.Image, drawing: Image.Image) -> Individual:
        read = [lambda each=each: Photo(each, "", Path(str(number))) for each in (photo, drawing)]
        return Individual(name=str(number), learned=(read[0],), drawings={"{} there": read[1]})

    photos = [packs.photo_of((5, 5)), packs.photo_of((9, 7))]
    cosine = float(eyes.face(photos[0]) @ eyes.face(photos[1]))
    panel = [one(k, photo, photo) for k, photo in enumerate(photos)]
    scale = scales.measure(eyes, panel, "{} there", photos[0].size)
    assert (scale.person, scale.strangers) == pytest.approx((1, cosine), abs=1e-5)
    assert scales.measure(eyes, panel, "{} elsewhere", photos[0].size) is None
    assert scales.measure(eyes, panel[:1], "{} there", photos[0].size) is None
    crossed = [one(k, photo, photos[1 - k]) for k, photo in enumerate(photos)]
    assert scales.measure(eyes, crossed, "{} there", photos[0].size) is None


def test_identity_is_one_for_the_photo_itself_and_minus_one_for_nobody(eyes: Observers, case: Sample) -> None:
    found = metrics.measure(eyes, case)
    assert found["i_pre"][0] == pytest.approx(1, abs=1e-5)
    assert -1 < found["i_pre"][1] < found["i_pre"][0]  # the tiny judge is random, and tells faces apart by little
    assert found["i_pre"][2] == -1
    assert found["i_found"][2] is None and found["i_found"][:2] == found["i_pre"][:2]
    assert found["detected"] == [1, 1, 0]
    assert found["i_unseen"][1] == pytest.approx(1, abs=1e-5) and found["i_unseen"][2] == -1


def test_without_another_photo_there_is_no_copy_check(eyes: Observers, case: Sample) -> None:
    bare = Sample(
        pictures=case.pictures,
        prompt=0,
        prompts=PROMPTS,
        learned=case.learned,
        unseen=eyes.known(alice([packs.photo_of((5, 5))], [])).unseen,
    )
    assert metrics.measure(eyes, bare)["i_unseen"] == [None, None, None]


def test_several_photos_count_alike(eyes: Observers, case: Sample) -> None:
    both = Sample(
        pictures=case.pictures,
        prompt=0,
        prompts=PROMPTS,
        learned=np.concatenate([case.learned, case.unseen]),
        unseen=case.unseen,
    )
    found = metrics.measure(eyes, both)["i_pre"][0]
    one, other = (float(rows[0] @ case.learned[0]) for rows in (case.learned, case.unseen))
    assert found == pytest.approx((one + other) / 2, abs=1e-5)


def test_text_is_hessels_score(eyes: Observers, case: Sample, eval_folder: Path) -> None:
    clip = subject.observer_of(specs.resolve(str(eval_folder)), "cpu")
    found = metrics.measure(eyes, case)
    seen, said = clip.cropped_embedding(case.pictures), clip.text_embedding(PROMPTS)
    cosines = (seen @ said.T / seen.norm(dim=1)[:, None] / said.norm(dim=1)).tolist()
    assert found["t_cosine"] == pytest.approx([each[1] for each in cosines], abs=1e-5)
    assert found["t_sim"] == pytest.approx([2.5 * max(each[1], 0) for each in cosines], abs=1e-5)
    assert found["obeyed"] == [float(each[1] > each[0]) for each in cosines]


def test_one_prompt_is_always_obeyed_and_so_says_nothing(eyes: Observers, case: Sample) -> None:
    alone = Sample(pictures=case.pictures, prompt=0, prompts=PROMPTS[:1], learned=case.learned, unseen=case.unseen)
    assert metrics.measure(eyes, alone)["obeyed"] == [None] * 3


def test_each_text_is_encoded_once(eyes: Observers, case: Sample, eval_folder: Path, monkeypatch) -> None:
    clip = subject.observer_of(specs.resolve(str(eval_folder)), "cpu")
    said: list[str] = []
    original = type(clip).text_embedding
    monkeypatch.setattr(type(clip), "text_embedding", lambda self, texts: said.extend(texts) or original(self, texts))
    fresh = Observers(clip, eyes._pack)
    for _ in range(3):
        metrics.measure(fresh, case)
    assert said == list(PROMPTS)


def test_a_photo_without_a_face_is_refused_or_not_compared_with(eyes: Observers) -> None:
    face, nobody = packs.photo_of((5, 5)), packs.photo_of()
    with pytest.raises(PhotoRefused, match=r"in 1\.png of alice"):
        eyes.known(alice([face, nobody], []))
    known = eyes.known(alice([face], [nobody, face]))
    assert len(known.unseen) == 1 and known.faceless == ("1.png",)
    assert len(eyes.known(alice([face], [nobody])).unseen) == 0


def test_the_judge_is_never_the_network_of_the_loss(eval_folder: Path, tmp_path: Path) -> None:
    spec = specs.resolve(str(eval_folder))
    with pytest.raises(Incompatible, match="same recogniser"):
        observers.observers(replace(spec, eval_recognizer=spec.faces), "cpu")
    with pytest.raises(WeightsMissing, match="antelopev2") as caught:
        observers.observers(replace(spec, eval_recognizer="antelopev2"), "cpu")
    assert "pmagic models pull antelopev2" in caught.value.next_step


def test_prompts_of_the_evaluation_are_not_said_while_learning() -> None:
    from pmagic.engine import prompts as learning

    said = {each.lower() for each in (*learning.OPEN_PROMPTS, *learning.MORE_OPEN_PROMPTS)}
    said |= {each.lower() for of in learning.TEMPLATES.values() for each in of}
    assert not said & {each.lower() for each in prompts.FIGURE_16}
    assert len(prompts.PAPER) == 17 and len(set(prompts.FIGURE_16)) == 25


def test_prompts_are_read_from_a_file(tmp_path: Path) -> None:
    from pmagic.errors import NotFound, UsageError

    path = tmp_path / "prompts.txt"
    path.write_text("\ufeff# mine\n{} on the moon \n\n<b>{}</b>\n", encoding="utf-8")
    assert prompts.read(path) == ("{} on the moon", "<b>{}</b>")
    for text, told in (("nobody here\n", "line 1"), ("{}\n{}\n", "line 1 again"), ("# {}\n", "no prompt")):
        path.write_text(text)
        with pytest.raises(UsageError, match=told):
            prompts.read(path)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(UsageError, match="UTF-8"):
        prompts.read(path)
    with pytest.raises(NotFound):
        prompts.read(tmp_path / "absent")
