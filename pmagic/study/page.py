"""The page of a study: one HTML file with all pictures in it, which loads nothing and sends nothing.

It names no method and no person. `allow_sending` lets it send its answers back to the server that it came from.
"""

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from pmagic import pictures
from pmagic.engine.prompts import substitute_names
from pmagic.evaluation.plots import printable
from pmagic.pictures import MARK
from pmagic.study.questions import IDENTITY, TEXT, Choice, Question
from pmagic.study.source import Evaluation

SIDE, QUALITY = 512, 90  # pixels of a picture, at most; of its JPEG
_LARGE = 30_000_000  # bytes
PERSON = "someone"  # stands for the name in a prompt
_SENDS_NOTHING, _SENDS_TO_ITS_SERVER = b"connect-src 'none'", b"connect-src 'self'"
_NO_ADDRESS, _ADDRESS = b'data-answers=""', b'data-answers="answers"'


def collect(evaluation: Evaluation, questions: Sequence[Question]) -> dict[str, Any]:
    """What the page shows, as plain values: the pictures as data URLs, and the questions that name them.

    Raises PhotoRefused for a damaged picture, NotFound for a missing one.
    """
    shown: dict[str, str] = {}

    def show(picture: Image.Image, **mark: bytes) -> str:
        """Add a picture. Returns its name on the page, which says nothing about it."""
        data = _jpeg(picture, **mark)
        name = hashlib.sha256(data).hexdigest()[:12]
        shown[name] = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
        return name

    def photo(person: int) -> str:
        return show(evaluation.people[person].source.learned[0]().image)

    def choice(question: Question, of: Choice) -> str:
        if not of.path:
            return photo(question.person)
        return show(pictures.read_photo(evaluation.root / of.path).image, xmp=MARK.encode())

    asked = [
        {
            "id": each.id,
            "kind": each.kind,
            "prompt": prompt_text(evaluation.prompts[each.prompt - 1]) if each.kind == TEXT else "",
            "photo": photo(each.person) if each.kind == IDENTITY else "",
            "a": choice(each, each.a),
            "b": choice(each, each.b),
        }
        for each in questions
    ]
    return {"questions": asked, "pictures": dict(sorted(shown.items()))}


def prompt_text(prompt: str) -> str:
    """A prompt as people read it: with a word in place of the name, and without characters that cannot be shown."""
    return printable(substitute_names(prompt, {"": PERSON}))


def render(study: str, shown: dict[str, Any]) -> bytes:
    """The page as HTML. Every text in it is data or escaped; only the package's own style and script can run."""
    import jinja2

    folder = files("pmagic.study")
    style, script, template = (folder.joinpath(f"page.{kind}").read_text() for kind in ("css", "js", "html"))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    kinds = {each["kind"] for each in shown["questions"]}
    text = environment.from_string(template).render(
        study={"id": study, **shown},
        count=len(shown["questions"]),
        asks_identity=IDENTITY in kinds,
        asks_text=TEXT in kinds,
        style=style,
        script=script,
        style_hash=policy_hash(style),
        script_hash=policy_hash(script),
    )
    return text.encode()


def allow_sending(html: bytes) -> bytes:
    """The page as `pmagic study serve` gives it: it may send answers to this server, and to no other."""
    for old, new in ((_SENDS_NOTHING, _SENDS_TO_ITS_SERVER), (_NO_ADDRESS, _ADDRESS)):
        html = html.replace(old, new, 1)  # both stand in the head, before any text from outside
    return html


def read_content(path: Path) -> dict[str, Any]:
    """What the page in this file shows, as `collect` gave it, with the `id` of the study."""
    text = path.read_text()
    start = text.index('<script type="application/json" id="study">')
    return json.loads(text[text.index(">", start) + 1 : text.index("</script>", start)])


def is_large(path: Path) -> bool:
    """Whether a phone would load the page slowly."""
    return path.stat().st_size > _LARGE


def picture(shown: Mapping[str, Any], name: str) -> Image.Image:
    """A picture of the page by its name."""
    data = shown["pictures"][name].partition(",")[2]
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def policy_hash(text: str) -> str:
    """The hash by which a content security policy allows this text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _jpeg(image: Image.Image, **mark: bytes) -> bytes:
    """mark: metadata that marks a generated picture; a photo has no mark."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY, subsampling=0, **mark)
    return buffer.getvalue()
