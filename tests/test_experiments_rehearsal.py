"""The rehearsal of a study: machines answer by their own score, and never pass for people."""

import json
from pathlib import Path

import numpy as np
import pytest
import studied
import torch
from PIL import Image

from pmagic.evaluation import observers
from pmagic.experiments import rehearsal
from pmagic.study import answers, page, results
from pmagic.study.questions import Question


class Eyes:
    """Takes the grey level for the face, and blue for what every text describes. Some pictures have no face."""

    def face(self, picture: Image.Image) -> np.ndarray | None:
        red, green, blue = picture.getpixel((5, 5))
        angle = (red + green + blue) / 500
        return None if abs(red - 160) < 4 else np.array([np.cos(angle), np.sin(angle)])

    def clip_similarity(self, pictures: list[Image.Image], texts: list[str]) -> torch.Tensor:
        assert all("face" in text and "someone" not in text for text in texts)
        return torch.tensor([[float(picture.getpixel((5, 5))[2])] * len(texts) for picture in pictures])


def test_machines_answer_the_page_and_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, study = studied.make(tmp_path, count=24, checks=8)
    monkeypatch.setattr(observers, "observers", lambda spec, device: Eyes())
    monkeypatch.setattr(observers, "identity", lambda spec: {"clip": "clip 1", "judge": "faces_b 2"})
    files = rehearsal.rehearse(place, "mini", "cpu", tmp_path / "out")
    assert [each.name for each in files] == ["machine-recogniser.json", "machine-clip.json"]
    everyone, problems = answers.read(files, study)
    assert problems == [] and [each.machine for each in everyone] == ["CLIP clip 1", "the recogniser faces_b 2"]
    clip, recogniser = everyone
    kinds = {each.id: each.kind for each in study.questions}
    assert {kinds[each] for each in clip.answers} == {"text"} and len(clip.answers) == 16
    assert {kinds[each] for each in recogniser.answers} == {"identity"} and len(recogniser.answers) == 16
    for each in study.questions:
        if each.kind == "text" and not each.answer:  # the later method has more blue
            assert clip.answers[each.id] == bluer(each)
        if each.kind == "identity" and each.answer:  # nothing is more like the photo than itself
            assert recogniser.answers[each.id] == each.answer
    found = results.summarize(study, [recogniser], [])
    assert results.caveats(found)[0].startswith(
        "1 of 1 participants are machines: machine-recogniser (the recogniser faces_b 2)."
    )
    assert json.loads(files[0].read_text())["machine"] == "the recogniser faces_b 2"


def bluer(question: Question) -> str:
    order = list(studied.METHODS)
    return max(("a", "b"), key=lambda name: order.index(getattr(question, name).method))


def test_a_tie_goes_to_the_first(tmp_path: Path) -> None:
    place, _ = studied.make(tmp_path)
    content = page.read_content(place / "page" / "index.html")
    made = rehearsal.answer(content, "text", lambda question, content, name: 1.0)
    assert {each.chosen for each in made} == {"a"} and [each.n for each in made] == list(range(1, len(made) + 1))
    assert [each.question for each in made] == [each["id"] for each in content["questions"] if each["kind"] == "text"]
