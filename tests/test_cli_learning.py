"""learn and render through the program, on a tiny random base in a local folder: the real engine, no doubles."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from PIL import Image
from tiny import own_folder, tiny_folders  # noqa: F401 - fixtures
from typer.testing import CliRunner, Result

from pmagic import pictures
from pmagic.cli.app import app
from pmagic.engine import rendering as engine
from pmagic.engine import training
from pmagic.errors import OutOfMemory
from pmagic.library.store import Library
from pmagic.tasks import prompt_text

runner = CliRunner()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "alice.png"
    tiny.photo(3).save(path)
    return path


@pytest.fixture
def base(tiny_folders: dict[str, Path]) -> str:  # noqa: F811
    return str(tiny_folders["sd1"])


@pytest.fixture
def alice(library: Library, photo: Path, base: str) -> Library:
    """A library with alice learned on the tiny base, by the program."""
    done = learn(photo, base)
    assert done.exit_code == 0, done.stderr
    return library


def learn(photo: Path, base: str, *more: str, name: str = "alice") -> Result:
    """Uses the recipe that needs no face pack, unless `more` changes it: the tiny base has no pack."""
    words = ["--name", name, "--base", base, "--iterations", "2", "--recipe", "reference", *more]
    return runner.invoke(app, ["learn", str(photo), *words])


def render(*words: str, out: Path) -> Result:
    return runner.invoke(app, ["render", *words, "--steps", "2", "--out", str(out)])


def test_learn_prints_the_address_and_keeps_what_was_asked_for(library: Library, photo: Path, base: str) -> None:
    done = learn(photo, base, "--seed", "5", "--stages", "300:700", "--batch", "1", "--learning-rate", "0.01")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "alice@1\n", "")
    address, persona = library.load("alice")
    assert (address.version, persona.word, persona.base) == (1, "face", Path(base).name)
    assert (persona.bounds.low, persona.bounds.high) == (300, 700)
    settings = persona.settings
    assert [settings[key] for key in ("seed", "batch", "learning_rate", "iterations")] == [5, 1, 0.01, 2]
    assert persona.photos == (pictures.read_photo(photo).sha256,)
    assert not list(library.root.rglob("*.checkpoint"))


def test_learning_again_makes_version_two_and_the_same_seed_the_same_persona(alice: Library, photo, base) -> None:
    done = learn(photo, base, "--json")
    document = json.loads(done.stdout)
    assert document["persona"] == "alice@2"
    assert document["settings"]["iterations"] == 2
    first, second = (alice.root / "alice" / version / "tensors.safetensors" for version in ("v0001", "v0002"))
    assert first.read_bytes() == second.read_bytes()


def test_a_mask_and_several_photos(library: Library, tmp_path: Path, photo: Path, base: str) -> None:
    mask, other = tmp_path / "mask.png", tmp_path / "other.png"
    Image.new("L", tiny.photo().size, 255).save(mask)
    tiny.photo(4).save(other)
    assert learn(photo, base, "--mask", str(mask)).exit_code == 0
    assert learn(photo, base, str(other), name="both").exit_code == 0
    assert len(library.load("both")[1].photos) == 2
    refused = learn(photo, base, str(other), "--mask", str(mask))
    assert refused.exit_code == 2
    assert "one --mask cannot serve several photos" in refused.stderr


def test_render_writes_pictures_that_tell_their_story(alice: Library, tmp_path: Path) -> None:
    done = render("alice", "as a cowboy", "-n", "2", "--seed", "40", "--json", out=tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["prompt"] == "a photo of <alice> as a cowboy"
    assert [each["seed"] for each in document["pictures"]] == [40, 41]
    for each in document["pictures"]:
        story = pictures.read_metadata(Path(each["file"]))
        assert story["seed"] == each["seed"]
        assert (story["persona"], story["base"], story["steps"]) == ("alice@1", "sd1", 2)
        assert str(tmp_path) not in json.dumps(story)  # no path of this machine goes along
        assert story["size"] == [tiny.SIZE, tiny.SIZE]
    assert [Path(each["file"]).name for each in document["pictures"]] == [
        "alice-as-a-cowboy.png",
        "alice-as-a-cowboy-2.png",
    ]


def test_picture_k_is_the_same_alone_and_nothing_is_overwritten(alice: Library, tmp_path: Path) -> None:
    both = render("alice", "a {} in snow", "-n", "2", "--seed", "7", "--exact", out=tmp_path).stdout.split()
    alone = render("alice@1", "a <alice> in snow", "--seed", "8", out=tmp_path).stdout.split()
    assert len({*both, *alone}) == 3
    assert Path(both[1]).read_bytes() == Path(alone[0]).read_bytes()
    assert Path(both[0]).read_bytes() != Path(alone[0]).read_bytes()


def test_render_takes_every_setting(alice: Library, tmp_path: Path) -> None:
    words = ["--guidance", "3", "--scheduler", "ddim", "--negative", "hat", "--size", "40x24"]
    done = render("alice", "", *words, out=tmp_path / "one.png")
    assert done.stdout == f"{tmp_path / 'one.png'}\n"
    story = pictures.read_metadata(tmp_path / "one.png")
    assert (story["guidance"], story["scheduler"], story["negative"], story["size"]) == (3.0, "ddim", "hat", [40, 24])
    assert story["prompt"] == "a photo of <alice>"
    assert Image.open(tmp_path / "one.png").size == (40, 24)


def test_a_prompt_that_is_too_long_shows_what_is_cut(alice: Library, tmp_path: Path) -> None:
    done = render("alice", "hat " * 80 + "dog", out=tmp_path)
    assert done.exit_code == 0
    assert done.stderr.startswith("warning: the prompt is too long; the base does not read: 'hat hat")
    assert "dog'" in done.stderr
    cut_off = render("alice", "hat " * 80 + "{}", out=tmp_path)
    assert cut_off.exit_code == 2
    assert "the name stands beyond" in cut_off.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--name", "x/y"], 2, "it contains '/'"),
        (["--name", "x", "--base", "minni"], 3, "did you mean 'mini'?"),
        (["--name", "x", "--base", "sd14"], 7, "pmagic models pull sd14"),
        (["--name", "x", "--class", "big dog"], 2, "must be a single one"),
        (["--name", "x", "--class", "big dog"], 2, "use one of: dog"),
        (["--name", "x", "--recipe", "paper"], 7, "`pmagic models pull buffalo_l`"),
        (["--name", "x", "--recipe", "paper"], 7, "`--recipe reference"),
        (["--name", "x", "--face", "2"], 2, "--face 2 cannot be used: no face pack"),
        (["--name", "x", "--class", "dog", "--face", "1"], 2, "only faces can be chosen"),
        (["--name", "x", "--style", "--mask", "m.png"], 2, "a style is the whole picture"),
        (["--name", "x", "--style", "--class", "cat"], 2, "--class cat says what the pictures show, and --style"),
        (["--name", "x", "--recipe", "fast"], 2, "there is no recipe 'fast'"),
        (["--name", "x", "--method", "magic"], 3, "there is no method 'magic'"),
        (["--name", "x", "--mask", "nosuch.png"], 3, "there is no file nosuch.png"),
        (["--name", "x", "--dtype", "int3"], 2, "there is no number type 'int3'"),
        (["--name", "x", "--device", "warp"], 2, "the device 'warp'"),
        ([], 2, "Missing option '--name'"),
    ],
)
def test_what_cannot_be_learned_is_one_message_and_keeps_nothing(
    library: Library, photo: Path, base: str, words: list[str], code: int, said: str
) -> None:
    words = words if "--base" in words else [*words, "--base", base]
    words = words if "--recipe" in words else [*words, "--recipe", "reference"]
    never_learned(library, photo, words, code, said)


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [(None, 3, "there is no file"), (b"not an image", 4, "is not a JPEG, PNG or WEBP"), (b"", 4, "is not a JPEG")],
)
def test_a_photo_that_is_none(tmp_path: Path, base: str, content: bytes | None, code: int, said: str) -> None:
    path = tmp_path / "p.png"
    if content is not None:
        path.write_bytes(content)
    one_message(learn(path, base), code, said)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["alcie", "as a cowboy"], 3, "did you mean 'alice'?"),
        (["alice@4", "as a cowboy"], 3, "'alice' has no version 4"),
        (["alice", "as a cowboy", "--scheduler", "magic"], 2, "there is no scheduler 'magic'"),
        (["alice", "<bob> as a cowboy"], 2, "the prompt names <bob>, but alice is drawn"),
        (["alice", "as a cowboy", "--out", "p.gif"], 2, "pictures are PNG, JPEG or WEBP"),
        (["alice", "as a cowboy", "--format", "gif"], 2, "there is no format 'gif'"),
        (["alice", "as a cowboy", "--format", "webp", "--out", "p.png"], 2, "has another ending than --format webp"),
        (["alice", "as a cowboy", "--prompts", "p.txt"], 2, "both a prompt and --prompts"),
        (["alice", "--prompts", "p.txt"], 3, "there is no file p.txt"),
        (["alice", "-"], 2, "standard input holds no prompt"),
        (["alice"], 2, "Missing argument 'prompt'"),
    ],
)
def test_what_cannot_be_drawn_is_one_message(
    alice: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, said: str
) -> None:
    never_drawn(tmp_path, monkeypatch, words, code, said)


def test_a_folder_that_cannot_be_written_is_told_before_drawing(alice: Library, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    one_message(render("alice", "x", out=tmp_path / "file" / "sub"), 8, "cannot store pictures in")


def test_a_name_taken_on_another_base(alice: Library, photo: Path, tiny_folders: dict[str, Path]) -> None:  # noqa: F811
    done = learn(photo, str(tiny_folders["sd2"]))
    one_message(done, 6, "'alice' is taken: it was learned on")
    assert alice.versions("alice") == [1]


def test_a_persona_and_its_export_hold_no_path_of_this_machine(
    library: Library,
    photo: Path,
    own_folder: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """They are rendered with the folder all the same, because this machine remembers its place."""
    parents = tmp_path / "a-parent-of-it" / "and-another"
    parents.mkdir(parents=True)
    folder = own_folder.rename(parents / "my base")
    for each in own_folder.parent.glob(f"{own_folder.name}-*"):
        each.rename(parents / each.name)
    assert learn(photo, str(folder)).exit_code == 0
    assert runner.invoke(app, ["export", "alice", str(tmp_path / "out.pmagic")]).exit_code == 0
    files = [*(library.root / "alice" / "v0001").iterdir(), tmp_path / "out.pmagic"]
    parts = {*Path.home().parts, *tmp_path.parts, *folder.parent.parts}
    known = {"a-parent-of-it", "and-another", tmp_path.name, *(f"/{each}" for each in parts if len(each) > 2)}
    for file in files:
        said = [each for each in known if each.encode() in file.read_bytes()]
        assert said == [], (file, said)
    assert library.load("alice")[1].base == "my base"
    assert render("alice", "x", out=tmp_path / "out").exit_code == 0
    assert str(folder) not in runner.invoke(app, ["show", "alice", "--json"]).stdout
    bases = library.root.parent / "bases.toml"
    assert str(folder) in bases.read_text() and bases.stat().st_mode & 0o777 == 0o600
    bases.unlink()
    one_message(render("alice", "x", out=tmp_path / "out"), 3, "say where it is with --base")
    assert render("alice", "x", "--base", str(folder), out=tmp_path / "out").exit_code == 0


def test_an_early_persona_that_does_not_say_its_tokens_is_refused(alice: Library, base: str, tmp_path: Path) -> None:
    persona = alice.load("alice")[1]
    left = {key: value for key, value in persona.settings.items() if key != "tokens"}
    alice.save("alice", replace(persona, settings=left))
    one_message(render("alice", "x", out=tmp_path / "out"), 6, "does not say how many tokens")


def test_a_base_that_was_changed_or_moved(library: Library, photo: Path, own_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    assert learn(photo, str(own_folder)).exit_code == 0
    moved = own_folder.rename(tmp_path / "moved")
    gone = render("alice", "x", out=tmp_path / "out")
    one_message(gone, 3, "say where it is with --base")
    config = moved / "pmagic.toml"
    assert render("alice", "x", "--base", str(moved), out=tmp_path / "out").exit_code == 0
    config.write_text(config.read_text() + "\n[render]\nnonsense = 1\n")
    one_message(render("alice", "x", "--base", str(moved), out=tmp_path / "out"), 2, "'nonsense'")
    config.unlink()
    one_message(render("alice", "x", "--base", str(moved), out=tmp_path / "out"), 7, "observer")


def test_without_a_base_the_choice_is_told_and_the_config_decides(
    home: Path, library: Library, photo: Path, base: str
) -> None:
    words = ["learn", str(photo), "--name", "alice", "--iterations", "1", "--recipe", "reference"]
    one_message(runner.invoke(app, words), 7, "no base is chosen")
    assert "`pmagic models pull sd14`" in runner.invoke(app, words).stderr
    assert "`--base mini`" in runner.invoke(app, words).stderr
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(f'base = "{base}"\n')
    assert runner.invoke(app, words).exit_code == 0
    assert library.load("alice")[1].base == Path(base).name


def test_a_photo_that_the_base_does_not_know_is_learned_with_a_warning(
    library: Library,
    photo: Path,
    own_folder: Path,  # noqa: F811
) -> None:
    config = own_folder / "pmagic.toml"
    plain = config.read_text()
    for error, warned in ((0.0, True), (1e6, False)):
        config.write_text(f'{plain}\n[knows]\nwhat = "drawn faces"\nerror = {error}\n')
        done = learn(photo, str(own_folder), "--json", name=f"x{int(warned)}")
        assert done.exit_code == 0
        assert ("knows drawn faces only" in done.stderr) is warned
        assert len(json.loads(done.stdout)["warnings"]) == warned


def test_drawing_out_of_memory_goes_on_one_by_one(
    alice: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, at_once = engine.compose, []

    def short_of_memory(base: object, persona: object, prompt: str, seeds: list[int], *rest: object, **more: object):
        at_once.append(len(seeds))
        if len(seeds) > 1:
            raise OutOfMemory("there is not enough memory to draw")
        return drawn(base, persona, prompt, seeds, *rest, **more)

    monkeypatch.setattr(engine, "compose", short_of_memory)
    done = render("alice", "x", "-n", "3", "--memory", "normal", out=tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert at_once == [3, 1, 1, 1]
    assert "3 pictures at once; continuing one by one" in done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_learning_out_of_memory_goes_on_with_less_to_the_same_persona(
    alice: Library, photo: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, low = training.train, []

    def short_of_memory(context: training.TrainingContext, *rest: object):
        low.append(context.base.pipeline.unet.is_gradient_checkpointing)
        if not low[-1]:
            raise OutOfMemory("there is not enough memory to learn")
        return train(context, *rest)

    monkeypatch.setattr(training, "train", short_of_memory)
    done = learn(photo, base, name="again")
    assert done.exit_code == 0, done.stderr
    assert low == [False, True]
    assert "continuing, keeping less" in done.stderr
    done = learn(photo, base, "--memory", "low", name="low")
    assert done.exit_code == 0, done.stderr
    assert low == [False, True, True]
    one, two, three = (alice.root / name / "v0001" / "tensors.safetensors" for name in ("alice", "again", "low"))
    assert one.read_bytes() == two.read_bytes() == three.read_bytes()


def test_an_unknown_way_with_memory_is_refused(photo: Path, base: str) -> None:
    done = learn(photo, base, "--memory", "tiny")
    assert done.exit_code == 2
    assert "choose one of: auto, low, normal" in done.stderr


@pytest.mark.parametrize(
    ("prompt", "whole"),
    [
        ("as a cowboy", "a photo of {} as a cowboy"),
        ("", "a photo of {}"),
        ("an oil painting of {}", "an oil painting of {}"),
        ("{} and {}", "{} and {}"),
        ("<alice> in snow", "{} in snow"),
        ("<alice@2> in snow", "{} in snow"),
        ("a heart <3 for {}", "a heart <3 for {}"),
    ],
)
def test_how_a_prompt_is_completed(prompt: str, whole: str) -> None:
    assert prompt_text.render_prompt(prompt, "alice@2") == whole


def never_learned(library: Library, photo: Path, words: list[str], code: int, said: str) -> None:
    one_message(runner.invoke(app, ["learn", str(photo), *words]), code, said)
    assert library.names() == []


def never_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, said: str) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    one_message(runner.invoke(app, ["render", *words]), code, said)
    assert list(Path().iterdir()) == []


def one_message(done: Result, code: int, said: str) -> None:
    assert done.exit_code == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("error: ") == 1, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.output
