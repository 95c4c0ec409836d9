"""A small evaluation without any model, and studies made of it: pictures of one colour that says whose they are."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import conftest
import pytest
from PIL import Image

from pmagic import pictures
from pmagic.datasets import folder as photo_folder
from pmagic.evaluation.eval_config import eval_subject
from pmagic.evaluation.store import Result, Store, as_json, cell
from pmagic.study import answers, folder, questions, source
from pmagic.study.folder import Study
from pmagic.study.questions import Question

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>{{7*7}} $HOME \u202e"
NAMES = ("alice", "bruno", "chiara & <b>co", "dora")
PROMPTS = ("a photo of {} as a cowboy", f"{{}} {HOSTILE}", "oil painting of {}")
METHODS = {"paper": "", "lora": "lora", "textual_inversion": "textual_inversion"}  # by key, with the name in the plan
PICTURES = 2
DRAWING = {key: f"{number:08x}/{number + 7:08x}" for number, key in enumerate(METHODS)}


def colour(person: int, prompt: int, key: str) -> tuple[int, int, int]:
    """The colour of the pictures of a person (from 1), a prompt (from 1) and a method."""
    return 40 * person, 60 * prompt, 80 * list(METHODS).index(key) + 40


def build(root: Path) -> tuple[Path, Path]:
    """An evaluation and the folder of its photos, all of another shade of grey."""
    photos, out = root / "photos", root / "evaluation"
    photos.mkdir()
    for number, name in enumerate(NAMES, 1):
        Image.new("RGB", (96, 80), (50 * number,) * 3).save(photos / f"{name}.png")
    titles = {key: f"{key} {HOSTILE}" if key == "lora" else key for key in METHODS}
    variants = [
        {"key": key, "title": titles[key], **({"method": name} if name else {})} for key, name in METHODS.items()
    ]
    people = photo_folder.people(photos)
    store = Store(out)
    store.root.mkdir()
    store.write("plan.json", as_json({
        "base": "mini", "dataset": "folder", "people": [[each.name for each in people]], "prompts": list(PROMPTS),
        "pictures": PICTURES, "seed": 0, "variants": variants,
    }))  # fmt: skip
    for number, who in enumerate(people, 1):
        place = eval_subject(number, who).place
        for key in METHODS:
            for prompt in range(len(PROMPTS)):
                shades = colour(number, prompt + 1, key)
                files = {
                    f"{k}.png": pictures.encode_image(Image.new("RGB", (64, 64), shades), "png", {})
                    for k in range(PICTURES)
                }
                scores = as_json({"seeds": [0, 1], "scores": {"obeyed": [1.0, 1.0]}})
                store.keep(place, Result(cell(DRAWING[key], prompt), {**files, "cell.json": scores}, 0.0))
            about = as_json({"drawing": DRAWING[key], "bounds": [0, 1000]})
            store.keep(place, Result(f"variants/{key}", {"variant.json": about}, 0.0))
    return out, photos


def make(root: Path, count: int = 12, checks: int = 4, seed: int = 0) -> tuple[Path, Study]:
    """A study of a new evaluation in `root`."""
    evaluation = source.read(*build(root), [])
    chosen = questions.choose(evaluation, count, checks, seed)
    return root / "study", folder.write(root / "study", evaluation, chosen, seed)


def document(study: Study, who: str, choose: Callable[[Question], str], machine: str = "") -> dict[str, object]:
    """The answers of a participant who chooses so; "" leaves a question out."""
    given = [(each, choose(each)) for each in study.questions]
    made = [
        answers.Choice(n=n, question=each.id, chosen=chosen, left="a", seconds=1.5)
        for n, (each, chosen) in enumerate(((each, chosen) for each, chosen in given if chosen), 1)
    ]
    return answers.as_document(study.id, who, machine, made)


def prefer(key: str) -> Callable[[Question], str]:
    """Chooses this method where it is one of the two, else a; answers every check right."""
    return lambda each: each.answer or ("b" if each.b.method == key else "a")


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the test connect to this machine's loopback address, and to nothing else."""

    def local(self: socket.socket, address: object) -> None:
        if self.family != getattr(socket, "AF_UNIX", None) and address[0] != "127.0.0.1":
            pytest.fail(f"a test tried to connect to {address}")
        conftest.ORIGINAL_CONNECT(self, address)

    def look_up(host: str, *rest: object, **more: object) -> object:
        if host not in ("127.0.0.1", None):
            pytest.fail(f"a test looked up {host}")
        return conftest.ORIGINAL_LOOK_UP(host, *rest, **more)

    monkeypatch.setattr(socket.socket, "connect", local)
    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@contextlib.contextmanager
def waiting(seconds: float, what: str) -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether to go on waiting; it fails after `seconds`."""
    import time

    end = time.monotonic() + seconds

    def more() -> bool:
        if time.monotonic() > end:
            pytest.fail(f"after {seconds} seconds there is no {what}")
        time.sleep(0.02)
        return True

    yield more
