"""Rehearses a study: two machines answer the page that people will see, and say so in their answers.

python -m pmagic.experiments.rehearsal STUDY --base mini --out DIR
pmagic study score STUDY DIR/*.json

A face recogniser answers the questions of identity by the cosine with the photo, and CLIP those of text by the cosine
with the description. This shows whether a study can be answered and its checks are well chosen, not what people prefer.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pmagic import atomic_io
from pmagic.bases import model_spec
from pmagic.evaluation import observers
from pmagic.evaluation.eval_config import FACE
from pmagic.evaluation.observers import Observers
from pmagic.study import answers, folder, page
from pmagic.study.page import PERSON
from pmagic.study.questions import IDENTITY, TEXT

NOT_FOUND = -1.0  # the likeness of a picture without a face

Rate = Callable[[Mapping[str, Any], Mapping[str, Any], str], float]  # (question, content of the page, picture) -> score


def rate_identity(eyes: Observers) -> Rate:
    """The cosine of the largest face in a picture with that in the photo."""

    def rate(question: Mapping[str, Any], content: Mapping[str, Any], name: str) -> float:
        face, photo = (eyes.face(page.picture(content, each)) for each in (name, question["photo"]))
        return NOT_FOUND if face is None or photo is None else float(face @ photo)

    return rate


def rate_text(eyes: Observers) -> Rate:
    """The cosine of a picture with the description, with the word that evaluations use for everyone."""

    def rate(question: Mapping[str, Any], content: Mapping[str, Any], name: str) -> float:
        description = question["prompt"].replace(PERSON, FACE)
        return float(eyes.clip_similarity([page.picture(content, name)], [description])[0, 0])

    return rate


def answer(content: Mapping[str, Any], kind: str, rate: Rate) -> list[answers.Choice]:
    """Choose the picture with the higher score in every question of one kind; a in a tie."""
    asked = [each for each in content["questions"] if each["kind"] == kind]
    chosen = ["a" if rate(each, content, each["a"]) >= rate(each, content, each["b"]) else "b" for each in asked]
    return [
        answers.Choice(n=n, question=each["id"], chosen=picture, left="a", seconds=0)
        for n, (each, picture) in enumerate(zip(asked, chosen, strict=True), 1)
    ]


def rehearse(study: Path, base: str, device: str, out: Path) -> list[Path]:
    """Write the answers of both machines. Returns the paths of the files."""
    spec = model_spec.resolve(base)
    eyes = observers.observers(spec, device)
    names = observers.identity(spec)
    content = page.read_content(folder.page_path(study))
    machines = {
        "machine-recogniser": (IDENTITY, f"the recogniser {names['judge']}", rate_identity(eyes)),
        "machine-clip": (TEXT, f"CLIP {names['clip']}", rate_text(eyes)),
    }
    written = []
    for who, (kind, machine, rate) in machines.items():
        document = answers.as_document(content["id"], who, machine, answer(content, kind, rate))
        written.append(atomic_io.publish_file(json.dumps(document, indent=1).encode(), out / f"{who}.json"))
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--base", default="mini", help="the base whose CLIP and judge answer")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("rehearsal"))
    options = parser.parse_args()
    for path in rehearse(options.study, options.base, options.device, options.out):
        print(path)


if __name__ == "__main__":
    main()
