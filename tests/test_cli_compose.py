"""compose through the program, on a tiny random base in a local folder: the real engine, no doubles."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image, ImageCms
from tiny import faced_folder, tiny_base, tiny_folders  # noqa: F401 - fixtures
from typer.testing import CliRunner, Result

from pmagic import pictures
from pmagic.bases import loading, local_bases, model_spec
from pmagic.cli import compose as composing
from pmagic.cli.app import app
from pmagic.engine import face_selection
from pmagic.engine.recipes import settings_for
from pmagic.errors import UsageError
from pmagic.library.store import Library
from pmagic.methods import personamagic
from pmagic.persona import Persona

runner = CliRunner()


@pytest.fixture(scope="module")
def learned(tiny_base: loading.Base) -> Persona:  # noqa: F811
    return personamagic.learn(tiny_base, tiny.known(tiny_base), settings_for("reference", {}, **tiny.train_step()))


@pytest.fixture
def people(library: Library, tiny_base: loading.Base, learned: Persona) -> Library:  # noqa: F811
    """A library with alice and bob of one base, and carol of another."""
    local_bases.remember(tiny_base.spec, tiny_base.fingerprint)
    library.save("alice", learned)
    tensors = {name: np.asarray(array) * 1.1 for name, array in learned.tensors.items()}
    library.save("bob", replace(learned, tensors=tensors))
    library.save("carol", replace(learned, base="elsewhere", fingerprint="c" * 64))
    return library


@pytest.fixture
def park(tmp_path: Path) -> Path:
    path = tmp_path / "park.png"
    tiny.photo(6, (70, 50)).save(path)
    return path


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    path = tmp_path / "mask.png"
    image = Image.new("L", (70, 50), 0)
    image.paste(255, (30, 10, 50, 40))
    image.save(path)
    return path


def compose(*words: object, out: Path) -> Result:
    return runner.invoke(app, ["compose", *map(str, words), "--steps", "2", "--out", str(out)])


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def one_message(done: Result, code: int, said: str) -> None:
    assert done.exit_code == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("error: ") == 1, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.output


def test_two_in_one_prompt(people: Library, tmp_path: Path) -> None:
    done = compose("a photo of {alice} and {bob} in snow", "-n", 2, "--seed", 5, "--json", out=tmp_path)
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["prompt"] == "a photo of {alice@1} and {bob@1} in snow"
    assert [Path(each["file"]).name for each in document["pictures"]] == [
        "a-photo-of-alice-and-bob-in-snow.png",
        "a-photo-of-alice-and-bob-in-snow-2.png",
    ]
    story = pictures.read_metadata(Path(document["pictures"][1]["file"]))
    assert (story["persona"], story["word"], story["seed"]) == ("alice@1, bob@1", "face, face", 6)
    assert (story["verb"], story["steps"], story["size"]) == ("compose", 2, [tiny.SIZE, tiny.SIZE])


def test_the_same_picture_as_render_with_one_persona(people: Library, tmp_path: Path) -> None:
    done = compose("a photo of {alice} in snow", out=tmp_path / "compose")
    words = ["render", "alice", "a photo of {} in snow", "--steps", "2", "--out", str(tmp_path / "render")]
    simple = runner.invoke(app, words)
    assert np.array_equal(pixels(done.stdout.strip()), pixels(simple.stdout.strip()))


def test_a_layout_draws_other_pictures(people: Library, tmp_path: Path) -> None:
    prompt = "{alice} and {bob} in snow"
    layouts = [[], ["--layout", "left,right"], ["--layout", "right,left"], ["--layout", "0,0,50,100;50,0,50,100"]]
    drawn = [compose(prompt, *words, out=tmp_path) for words in layouts]
    assert all(done.exit_code == 0 for done in drawn), drawn[-1].stderr
    found = [pixels(done.stdout.strip()) for done in drawn]
    assert np.array_equal(found[1], found[3])
    assert len({each.tobytes() for each in found}) == 3
    assert pictures.read_metadata(Path(drawn[1].stdout.strip()))["layout"] == "left,right"


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_into_a_background_of_any_kind(people: Library, tmp_path: Path, mask: Path, ending: str) -> None:
    """The result is the background as a viewer shows it, upright and in sRGB, everywhere outside the mask."""
    path = tmp_path / f"park.{ending}"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tiny.photo(6, (50, 70)).save(path, exif=exif, icc_profile=profile)
    shown = np.asarray(pictures.read_photo(path).image)
    done = compose("{alice} as cowboy", "--background", path, "--mask", mask, "--soft-edge", 2, out=tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    result, marked = pixels(done.stdout.strip()), np.asarray(Image.open(mask)) > 0
    assert result.shape == shown.shape == (50, 70, 3)
    assert np.array_equal(result[~marked], shown[~marked])
    assert not np.array_equal(result[marked], shown[marked])
    story = pictures.read_metadata(Path(done.stdout.strip()))
    assert story["background"] == pictures.read_photo(path).sha256
    assert (story["soft_edge"], story["size"]) == (2, [tiny.SIZE] * 2)
    assert str(tmp_path) not in json.dumps(story)


def test_a_box_is_the_mask_of_that_box(people: Library, tmp_path: Path, park: Path, mask: Path) -> None:
    by_box = compose("{alice}", "--background", park, "--box", "30,10,20,30", out=tmp_path)
    by_mask = compose("{alice}", "--background", park, "--mask", mask, out=tmp_path)
    assert np.array_equal(pixels(by_box.stdout.strip()), pixels(by_mask.stdout.strip()))


def test_a_mask_of_another_size_is_refused_or_fitted(people: Library, tmp_path: Path, park: Path, mask: Path) -> None:
    small = tmp_path / "small.png"
    Image.open(mask).resize((35, 25), Image.Resampling.NEAREST).save(small)
    words = ["{alice}", "--background", park, "--mask", small]
    one_message(compose(*words, out=tmp_path), 4, "is 35 x 25, the background 70 x 50")
    fitted = compose(*words, "--fit-mask", out=tmp_path)
    assert fitted.exit_code == 0
    changed = (pixels(fitted.stdout.strip()) != pixels(park)).any(axis=-1)
    assert changed[12:38, 32:48].mean() > 0.8 and not changed[:8].any() and not changed[:, :28].any()


def test_mask_text_and_preview(people: Library, tmp_path: Path, park: Path) -> None:
    words = ["{alice}", "--background", park, "--mask-text", "the hat", "--preview"]
    done = compose(*words, "--json", out=tmp_path)
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    shown, before = pixels(document["preview"]), pixels(park)
    assert Path(document["preview"]).name == "alice-mask.png"
    assert shown.shape == before.shape
    assert 0 < (shown == before).all(axis=-1).mean() < 1
    drawn = compose(*words[:-1], out=tmp_path)
    changed = (pixels(drawn.stdout.strip()) != before).any(axis=-1)
    inside = (shown != before).any(axis=-1)  # pale, outside the mask
    assert not (changed & inside & ~_red(shown)).any()


@pytest.mark.parametrize("words", [["--out", "p.jpg"], ["--format", "webp", "--out", "folder"], ["--out", "p.png"]])
def test_a_preview_has_the_format_that_was_asked_for(
    people: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, park: Path, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    place = ["--background", str(park), "--box", "30,10,20,30", "--preview"]
    done = runner.invoke(app, ["compose", "{alice}", *place, *words])
    assert done.exit_code == 0, done.stderr
    path = Path(done.stdout.strip())
    with Image.open(path) as shown:
        assert shown.format.lower() == pictures.ENDINGS[path.suffix] and shown.size == (70, 50)
    assert path.suffix == {"p.jpg": ".jpg", "p.png": ".png", "folder": ".webp"}[words[-1]]


def test_the_way_to_draw_does_not_depend_on_who_is_named_first(
    people: Library, learned: Persona, tmp_path: Path
) -> None:
    people.save("ukiyo", replace(learned, settings={**learned.settings, "recipe": "paper"}))
    ways = []
    for prompt in ("{alice} and {ukiyo}", "{ukiyo} and {alice}", "{ukiyo}", "{alice}"):
        done = compose(prompt, out=tmp_path)
        assert done.exit_code == 0, done.stderr
        story = pictures.read_metadata(Path(done.stdout.strip()))
        ways.append((story["scheduler"], story["negative"]))
    assert ways[0] == ways[1] == ways[2] == ("ddim", "")
    assert ways[3][0] == "dpm++-sigma-min"


def test_a_background_that_is_transparent_is_told(people: Library, tmp_path: Path, park: Path) -> None:
    for alpha, told in ((100, True), (255, False)):
        image = Image.open(park).convert("RGBA")
        image.putalpha(alpha)
        image.save(tmp_path / "clear.png")
        place = ["--background", tmp_path / "clear.png", "--box", "30,10,20,30"]
        done = compose("{alice}", *place, "--json", out=tmp_path / "out")
        warnings = json.loads(done.stdout)["warnings"]
        assert ["has transparent parts: the picture is white there" in each for each in warnings] == [True] * told


def test_a_person_who_is_not_in_their_place_is_told(
    people: Library,
    learned: Persona,
    tmp_path: Path,
    faced_folder: Path,  # noqa: F811
) -> None:
    """No face has its centre in the top left corner; no face is expected of a dog."""
    people.save("tom", replace(learned, word="dog"))
    words = ["{alice} and {tom} and {bob}", "--layout", "0,0,1,1;0,0,1,1;0,0,100,100", "--base", faced_folder, "--json"]
    done = compose(*words, out=tmp_path)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    (picture,) = document["pictures"]
    everywhere = len(face_selection.open_pack(model_spec.resolve(str(faced_folder))).find(Image.open(picture["file"])))
    assert picture["faces"] == {"alice": 0, "bob": everywhere}
    absent = [f"no face was found where {who} should be in {picture['file']}: try" for who in ("alice", "bob")]
    warnings = document["warnings"]
    assert len(warnings) == 1 + (everywhere == 0)
    assert all(said.startswith(told) for said, told in zip(warnings, absent, strict=False))


def test_without_a_face_pack_it_is_told_that_nobody_looked(people: Library, tmp_path: Path) -> None:
    for words, warned in ((["--layout", "left,right"], True), ([], False)):
        document = json.loads(compose("{alice} and {bob}", *words, "--json", out=tmp_path).stdout)
        said = ["the face pack buffalo_l is not on this machine" in each for each in document["warnings"]]
        assert said == [True] * warned
        assert "faces" not in document["pictures"][0]


def _red(shown: np.ndarray) -> np.ndarray:
    return (shown == [255, 0, 0]).all(axis=-1)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["{alcie} in snow"], 3, "did you mean 'alice'?"),
        (["{alice@7} in snow"], 3, "'alice' has no version 7"),
        (["alice in snow"], 2, "names no persona"),
        (["{} in snow"], 2, "has {}, which names nobody"),
        (["{alice} in {} snow"], 2, "has {}, which names nobody"),
        (["{alice} and {bob in snow"], 2, "has a brace without its partner: '{bob in snow'"),
        (["{alice} and bob} in snow"], 2, "has a brace without its partner: '} in snow'"),
        (["{{alice}} in snow"], 2, "has a brace without its partner: '{{alice}} in snow'"),
        (["{alice} and {carol}"], 6, "alice@1 was learned on mini, carol@1 on elsewhere"),
        (["{alice} " + "snow " * 71 + "{bob}"], 2, "{bob} stands beyond the 75 tokens that the model reads"),
        (["{alice} and {bob}", "--layout", "left,left"], 2, "--layout cannot be 'left,left'"),
        (["{alice} and {bob}", "--layout", "left,right,middle"], 2, "has 3 places, but the prompt names 2"),
        (["{alice} and {bob}", "--layout", "0,0,200,50;0,0,9,9"], 2, "--layout cannot be"),
        (["{alice}", "--mask", "m.png"], 2, "need a --background"),
        (["{alice}", "--preview"], 2, "need a --background"),
        (["{alice}", "--background", "PARK"], 2, "needs one of --mask, --mask-text and --box, not 0"),
        (["{alice}", "--background", "PARK", "--box", "1,1,5,5", "--mask-text", "x"], 2, "not 2"),
        (["{alice}", "--background", "PARK", "--box", "1,1,5,500"], 2, "is not inside the background of 70 x 50"),
        (["{alice}", "--background", "PARK", "--box", "1,1,5"], 2, "--box cannot be '1,1,5'"),
        (["{alice}", "--background", "PARK", "--box", "1,1,0,5"], 2, "--box cannot be '1,1,0,5'"),
        (["{alice}", "--background", "PARK", "--box", "1,1,5,5", "--fit-mask"], 2, "--fit-mask needs a --mask"),
        (["{alice}", "--background", "PARK", "--box", "1,1,5,5", "--soft-edge", "-1"], 2, "0 pixels or more, not -1"),
        (["{alice}", "--background", "PARK", "--box", "1,1,9,9", "--soft-edge", "100"], 2, "give at most 4"),
        (["{alice}", "--background", "PARK", "--mask-text", "the"], 2, "'the' does not say what to find"),
        (["{alice}", "--background", "nosuch.png", "--box", "1,1,5,5"], 3, "there is no file nosuch.png"),
        (["{alice}", "-n", "0"], 2, "-n must be 1 to"),
        (["{alice}", "--out", "p.gif"], 2, "pictures are PNG"),
        ([], 2, "Missing argument 'prompt'"),
    ],
)
def test_what_cannot_be_composed_is_one_message(
    people: Library,
    learned: Persona,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    park: Path,
    words: list[str],
    code: int,
    said: str,
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    said = said.replace("mini", learned.base)
    one_message(runner.invoke(app, ["compose", *(str(park) if each == "PARK" else each for each in words)]), code, said)
    assert list(Path().iterdir()) == []


def test_an_empty_mask_is_refused(people: Library, tmp_path: Path, park: Path) -> None:
    for name, grey in (("black", 0), ("dark", 100)):
        Image.new("L", (70, 50), grey).save(tmp_path / f"{name}.png")
        done = compose("{alice}", "--background", park, "--mask", tmp_path / f"{name}.png", out=tmp_path / "out")
        assert done.exit_code == 4, done.stderr
        assert "black" in done.stderr or "the mask is empty" in done.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("left,right", [(0, 0, 0.5, 1), (0.5, 0, 1, 1)]),
        ("Right, left", [(0.5, 0, 1, 1), (0, 0, 0.5, 1)]),
        ("top,bottom", [(0, 0, 1, 0.5), (0, 0.5, 1, 1)]),
        ("left", [(0, 0, 0.5, 1)]),
        ("left,middle,right", [(0, 0, 1 / 3, 1), (1 / 3, 0, 2 / 3, 1), (2 / 3, 0, 1, 1)]),
        ("0,20,50,80", [(0, 0.2, 0.5, 1)]),
        ("0,0,25,100;50,0,50,100", [(0, 0, 0.25, 1), (0.5, 0, 1, 1)]),
    ],
)
def test_layouts(text: str, expected: list[tuple[float, ...]]) -> None:
    assert composing.parse_layout(text) == expected


@pytest.mark.parametrize("text", ["", "left;right", "left,up", "1,2,3", "a,b,c,d", "0,0,0,9", "-1,0,5,5", "top,middle"])
def test_layouts_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--layout cannot be"):
        composing.parse_layout(text)


def test_info_gives_the_command_that_draws_the_same_bytes(
    people: Library, tmp_path: Path, park: Path, mask: Path
) -> None:
    background = ["--background", park, "--mask", mask, "--soft-edge", 2]
    for words in ([], ["--layout", "left,right"], background):
        first = compose("{alice} and {bob} in snow", *words, "--seed", 4, "--size", "40x24", out=tmp_path)
        assert first.exit_code == 0, first.stderr
        told = json.loads(runner.invoke(app, ["info", first.stdout.strip(), "--json"]).stdout)
        program, *again = shlex.split(told["command"].replace("BACKGROUND", str(park)).replace("MASK", str(mask)))
        second = runner.invoke(app, [*again, "--out", str(tmp_path / "again")])
        assert program == "pmagic" and second.exit_code == 0, second.stderr
        assert Path(second.stdout.strip()).read_bytes() == Path(first.stdout.strip()).read_bytes()


def test_a_render_prompt_that_names_another_is_sent_to_compose(people: Library) -> None:
    done = runner.invoke(app, ["render", "alice", "{bob} in snow"])
    one_message(done, 2, "the prompt names {bob}, but alice is drawn")
    assert "`pmagic compose`" in done.stderr
