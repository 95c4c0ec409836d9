"""The folder of a study.

page/index.html   what participants see, and the only file for them: it names no method and no person
study.json        the key: which picture is of which method, and the answers of the attention checks
answers/          what `pmagic study serve` has written, one file for each participant
access-token      of `pmagic study serve`
results.json  preference.png  report.html   what `pmagic study score` has written
"""

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pmagic
from pmagic import atomic_io
from pmagic.errors import Incompatible, NotFound, UsageError
from pmagic.study import page
from pmagic.study.questions import KINDS, Choice, Question
from pmagic.study.source import Evaluation, Method

FORMAT = 1
KEY, PAGE, INDEX, ANSWERS, TOKEN = "study.json", "page", "index.html", "answers", "access-token"
_MAX_BYTES = 64 << 20  # of a key


@dataclass(frozen=True, kw_only=True)
class Study:
    """The key of a study. id: 16 hex digits that depend on everything that participants see."""

    id: str
    about: Mapping[str, Any]
    methods: Sequence[Method]
    prompts: Sequence[str]
    questions: Sequence[Question]

    @property
    def checks(self) -> list[Question]:
        return [each for each in self.questions if each.answer]


def page_path(folder: Path) -> Path:
    """The page of the study in this folder."""
    return folder / PAGE / INDEX


def write(folder: Path, evaluation: Evaluation, questions: Sequence[Question], seed: int) -> Study:
    """Write the page and its key into `folder`, which must be new or empty: all of it or nothing.

    Raises UsageError for a folder that holds something, StorageFailed, and PhotoRefused for a damaged picture.
    """
    target = folder.resolve()  # a link to an empty folder is followed, and `..` has no name to stage under
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        what = "there already and not empty" if target.is_dir() else "a file"
        raise UsageError(f"{folder} is {what}", "give --out an empty or a new folder")
    if target == Path.cwd():
        raise UsageError(f"{folder} is the folder you are in, and would be replaced", "give --out a folder inside it")
    content = page.collect(evaluation, questions)
    study = Study(
        id=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16],
        about={**evaluation.about, "seed": seed},
        methods=evaluation.methods,
        prompts=evaluation.prompts,
        questions=questions,
    )
    html = page.render(study.id, content)
    key = {"format": FORMAT, "pmagic": pmagic.__version__, **asdict(study)}
    staging = target.with_name(f".{target.name[:100]}.making")
    with atomic_io.storing(f"the study {folder}"):
        if staging.exists():
            atomic_io.erase(staging)  # left by a killed process
        try:
            atomic_io.make_folder(staging / PAGE)
            atomic_io.write_file(staging / PAGE / INDEX, html)
            atomic_io.sync_folder(staging / PAGE)
            if target.exists():
                target.rmdir()
            atomic_io.publish_folder({KEY: _as_json(key)}, staging, target)
        except OSError:
            shutil.rmtree(staging, ignore_errors=True)  # a partial copy must not use up a full disk
            raise
    return study


def read(folder: Path) -> Study:
    """Read the key in `folder`. Raises NotFound or Incompatible."""
    path = folder / KEY
    if not path.is_file() or not page_path(folder).is_file():
        raise NotFound(f"{folder} holds no study", "make one with `pmagic study make EVALUATION --out FOLDER`")
    try:
        with path.open("rb") as file:
            found = dict(json.loads(file.read(_MAX_BYTES)))
        if found["format"] != FORMAT:
            raise Incompatible(
                f"{path} has the format {found['format']!r}, and this pmagic reads {FORMAT}",
                "use the pmagic that made the study",
            )
        methods = [Method(**each) for each in found["methods"]]
        return Study(
            id=str(found["id"]),
            about=dict(found["about"]),
            methods=methods,
            prompts=[str(each) for each in found["prompts"]],
            questions=[_question(each, {method.key for method in methods}) for each in found["questions"]],
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise Incompatible(f"{path} cannot be read: {error!r}", "make the study again") from error


def _question(data: Mapping[str, Any], methods: Collection[str]) -> Question:
    found = Question(**{**data, "a": Choice(**data["a"]), "b": Choice(**data["b"])})
    one, other = found.a.method, found.b.method
    compares = one in methods and other in methods and one != other
    if found.kind not in KINDS or found.answer not in ("", "a", "b") or not (found.answer or compares):
        raise ValueError(f"no question: {data!r}")
    return found


def _as_json(document: object) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
