"""Pictures of other tools, measured with the same metrics.

PICTURES/alice/01-anything.png     a picture of the person in PHOTOS/alice.jpg, or in the folder PHOTOS/alice,
                                   for the first prompt of the file; pictures of one prompt differ after the number
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pmagic import datasets, pictures
from pmagic.datasets import Individual, folder
from pmagic.engine import prompts
from pmagic.errors import PmagicError, UsageError
from pmagic.evaluation import harness, metrics, scores
from pmagic.evaluation.eval_config import FACE, EvalSubject
from pmagic.evaluation.harness import Failure
from pmagic.evaluation.metrics import Sample
from pmagic.evaluation.observers import Observers
from pmagic.evaluation.statistics import Score

WANTED = (
    "a folder with one folder a person, named as the photo is, of pictures whose names begin with their prompt's number"
)
WHERE = "for example PICTURES/alice/01-a.png for PHOTOS/alice.jpg and the first prompt of the file"
_SHOWN = 6  # the number of names that a list shows
_NUMBER = re.compile(r"(\d+)(?!\d)")


@dataclass(frozen=True)
class ExternalImages:
    """The pictures of one person, by prompt, counted from 0."""

    who: Individual
    files: dict[int, list[Path]]


def find_images(root: Path, photos: Path, prompts: int) -> tuple[list[ExternalImages], list[str]]:
    """The people with photos and pictures, and the names of those with photos alone.

    Raises NotFound for a wrong layout, UsageError for wrong prompt numbers or unknown people.
    """
    root = datasets.require_folder(root, WANTED, WHERE)
    known = {each.name: each for each in folder.people(photos)}
    shown = []
    for place in datasets.folders_of(root):
        if place.name not in known:
            raise UsageError(
                f"{place} shows somebody of whom there is no photo in {photos}",
                "name the folders of pictures as the photos are",
            )
        files: dict[int, list[Path]] = {}
        for path in datasets.photos_of(place):
            number = _NUMBER.match(path.name)
            if number is None or not 1 <= int(number[1]) <= prompts:
                raise UsageError(
                    f"{path} does not begin with the number of a prompt, 1 to {prompts}", f"rename it: {WHERE}"
                )
            files.setdefault(int(number[1]) - 1, []).append(path)
        if files:
            shown.append(ExternalImages(known[place.name], files))
    if not shown:
        raise datasets.wrong_layout(root, WANTED, WHERE)
    seen = {each.who.name for each in shown}
    return shown, [name for name in known if name not in seen]


def caveats(shown: Sequence[ExternalImages], without: Sequence[str]) -> Iterator[str]:
    """The limitations of the results, one sentence each. without: the names of people without pictures."""
    if without:
        yield f"there is no picture of {_list(without)}: the means are without them"
    drawn = {prompt for each in shown for prompt in each.files}
    lacking = {each.who.name: sorted(drawn - each.files.keys()) for each in shown}
    missing = [f"{name} by {', '.join(str(each + 1) for each in some)}" for name, some in lacking.items() if some]
    if missing:
        yield f"not everyone has pictures by the same prompts, there is none of {_list(missing)}"


def _list(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more


def identity(shown: Sequence[ExternalImages]) -> str:
    """A digest of the names and bytes of all pictures."""
    total = hashlib.sha256()
    for each in shown:
        for path in (path for files in each.files.values() for path in files):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            total.update(f"{each.who.name} {path.name} {digest}\n".encode(errors="backslashreplace"))
    return total.hexdigest()


def measure(
    observers: Observers,
    shown: Sequence[ExternalImages],
    subjects: Sequence[EvalSubject],
    asked: Sequence[str],
    root: Path,
    key: str,
    on_progress: Callable[[int, int], None],
) -> tuple[list[Score], dict[int, Sequence[str]], dict[int, Failure]]:
    """Measure all pictures: the scores, the comparison photos without a face, and the failures, the last two by subject
    number. A subject that fails has no scores. subjects: the people to measure, numbered in the order of `shown`.
    """
    spoken = [prompts.substitute_names(each, {"": FACE}) for each in asked]
    lines: list[Score] = []
    faceless: dict[int, Sequence[str]] = {}
    failures: dict[int, Failure] = {}
    for who in subjects:
        on_progress(who.number, len(shown))
        mine: list[Score] = []
        try:
            seen = who.load_photos()
            known = observers.known(seen)
            for prompt, files in sorted(shown[who.number - 1].files.items()):
                drawn = [pictures.read_photo(path).image for path in files]
                values = metrics.measure(
                    observers,
                    Sample(
                        pictures=drawn,
                        prompt=prompt,
                        prompts=spoken,
                        learned=known.learned,
                        unseen=known.unseen,
                        scans=known.scans,
                        read_learned=partial(getattr, seen, "photos"),
                        read_unseen=partial(getattr, seen, "unseen"),
                    ),
                )
                names = [path.relative_to(root).as_posix() for path in files]
                mine += scores.rows((key, who.number, prompt + 1), [None] * len(files), names, values)
        except PmagicError as problem:
            failures[who.number] = harness.failure(problem)
        else:
            lines += mine
            if known.faceless:
                faceless[who.number] = known.faceless
    return lines, faceless, failures
