"""Adapters through the program, on tiny random bases: drawing, the record, and what is refused."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import adapter_samples
import numpy as np
import pytest
import tiny
import torch
from evaluated import face
from local_hub import LocalHub
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from pmagic import pictures
from pmagic.bases import adapter_files, loading, model_spec
from pmagic.cli.app import app
from pmagic.library.store import Library

pytest_plugins = ["tiny", "tiny_xl"]

runner = CliRunner()


def run(*words: object, code: int = 0) -> Result:
    done = runner.invoke(app, [*map(str, words)])
    assert done.exit_code == code, (done.stderr, done.exception)
    return done


@pytest.fixture
def place(library: Library, faced_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A persona of a tiny base, two looks, and an adapter file; drawing takes two steps."""
    for row, name in ((6, "alice"), (8, "bob")):
        face(7, row).save(tmp_path / f"{name}.png")
        run("learn", tmp_path / f"{name}.png", "--name", name, "--base", faced_folder, "--iterations", 2,
            "--recipe", "reference", "--stages", "300:700")  # fmt: skip
    monkeypatch.chdir(tmp_path)
    base = tiny.open_base(faced_folder)
    adapter = adapter_samples.build_ip_adapter(tmp_path / "adapters", base.pipeline.unet, "plus")
    for seed, name in ((1, "a.png"), (2, "b.png")):
        tiny.photo(seed, (64, 48)).save(tmp_path / name)
    return SimpleNamespace(base=faced_folder, adapter=adapter, unet=base.pipeline.unet, folder=tmp_path)


DRAW = ("--steps", 2, "--out", "out")


def drawn(*words: object) -> bytes:
    return Image.open(run(*words, *DRAW).stdout.splitlines()[0]).convert("RGB").tobytes()


def test_a_persona_with_a_look(place: SimpleNamespace) -> None:
    words = ("render", "alice", "as a cowboy")
    plain = drawn(*words)
    looks = {
        name: drawn(*words, "--with", place.adapter, "--look", name, "--scale", scale)
        for name, scale in (("a.png", 1.0), ("b.png", 1.0))
    }
    assert len({plain, *looks.values()}) == 3
    assert drawn(*words, "--with", place.adapter, "--look", "a.png", "--scale", 0) == plain
    assert drawn(*words) == plain


def test_the_record_and_the_command_of_a_picture(place: SimpleNamespace) -> None:
    words = ("--with", place.adapter, "--look", "a.png", "--look", "b.png", *DRAW)
    document = json.loads(run("render", "alice", "as a cowboy", *words, "--json").stdout)
    sums = [pictures.read_photo(Path(name)).sha256 for name in ("a.png", "b.png")]
    files = adapter_files.find(str(place.adapter))
    recorded = {
        "adapter": "plus.safetensors", "adapter_sha256": files.sha256, "encoder_sha256": files.encoder_sha256,
        "scale": 0.6, "look_sha256": sums,
    }  # fmt: skip
    assert {name: document[name] for name in recorded} == recorded
    first = Path(document["pictures"][0]["file"])
    assert str(place.folder) not in str(pictures.read_metadata(first))
    shown = run("info", first)
    assert "adapter: plus.safetensors" in shown.stdout and "stands for a file of that name" in shown.stderr
    again = shlex.split(run("info", "-q", first).stdout)[1:]
    assert "--with=plus.safetensors" in again and again.count("--look=LOOK") == 2 and "--scale=0.6" in again
    looks = iter(("a.png", "b.png"))
    again = [f"--look={next(looks)}" if each == "--look=LOOK" else each for each in again]
    again = [f"--with={place.adapter}" if each.startswith("--with=") else each for each in again]
    assert Path(run(*again, "--out", "again").stdout.strip()).read_bytes() == first.read_bytes()


def test_without_a_persona(place: SimpleNamespace) -> None:
    words = ("--with", place.adapter, "--look", "a.png")
    first = Path(run("render", "a photo of a woman", *words, "--base", place.base, *DRAW).stdout.strip())
    assert first.name == "a-photo-of-a-woman.png"
    metadata = pictures.read_metadata(first)
    assert metadata["persona"] == "" and metadata["prompt"] == "a photo of a woman"
    again = shlex.split(run("info", "-q", first).stdout)[1:]
    again = [each.replace("LOOK", "a.png").replace("=plus.safetensors", f"={place.adapter}") for each in again]
    assert Path(run(*again, "--out", "again").stdout.strip()).read_bytes() == first.read_bytes()
    Path("prompts.txt").write_text("a photo of a man\na photo of a dog\n")
    several = run("render", "--prompts", "prompts.txt", *words, "--base", place.base, "--grid", *DRAW).stdout
    assert len(several.splitlines()) == 3


def test_on_stable_diffusion_xl(library: Library, xl_folder: Path, xl_base: loading.Base, tmp_path: Path) -> None:
    """With guidance and without, by its pipeline with two text encoders."""
    adapter = adapter_samples.build_ip_adapter(tmp_path / "adapters", xl_base.pipeline.unet)
    tiny.photo(1).save(tmp_path / "a.png")
    words = ("render", "a photo of a dog", "--base", xl_folder, "--with", adapter, "--look", tmp_path / "a.png")
    for guidance in (4, 1):
        options = ("--guidance", guidance, "--steps", 2, "--out", tmp_path / "out")
        files = [run(*words, "--scale", scale, *options).stdout.strip() for scale in (0, 1)]
        images = [np.asarray(Image.open(each), dtype=float) for each in files]
        assert abs(images[0] - images[1]).mean() > 1
        again = shlex.split(run("info", "-q", files[1]).stdout)[1:]
        again = [
            each.replace("=LOOK", f"={tmp_path}/a.png").replace("=classic", f"={adapter.parent}/classic")
            for each in again
        ]
        assert Path(run(*again, "--out", tmp_path / "again").stdout.strip()).read_bytes() == Path(files[1]).read_bytes()


def test_a_record_that_lies_gives_one_line(place: SimpleNamespace) -> None:
    """Anybody may have written the metadata of a picture."""
    first = Path(run("render", "alice", "x", "--with", place.adapter, "--look", "a.png", *DRAW).stdout.strip())
    metadata = pictures.read_metadata(first)
    for lie in (
        {"adapter": "x\n$(id)", "scale": "1; id", "look_sha256": {"a\n`id`": ["0"] * 999}},
        {"adapter": ["x"], "look_sha256": 7},
        {"adapter": "ip-adapter", "adapter_sha256": None, "look_sha256": {"a": 1}},
    ):
        path = pictures.write_picture(Image.open(first), Path("lie.png"), {**metadata, **lie})
        done = run("info", "-q", path)
        assert len(done.stdout.splitlines()) == 1 and "$(id)" not in shlex.split(done.stdout)
        assert done.stdout.count("--look") <= 64 and "--scale=1; id" not in shlex.split(done.stdout)


def test_exact_pictures_are_the_same_alone_and_among_others(place: SimpleNamespace) -> None:
    words = ("render", "alice", "as a cowboy", "--with", place.adapter, "--look", "a.png", "--exact", *DRAW)
    together = run(*words, "-n", 3).stdout.splitlines()
    alone = run(*words, "--seed", 2).stdout.strip()
    images = [Image.open(each).tobytes() for each in (*together, alone)]
    assert images[2] == images[3] and len(set(images)) == 3
    batch = Path(run(*words[:-5], *DRAW, "-n", 3, "--memory", "normal").stdout.splitlines()[2])
    apart = [abs(a - b) for a, b in zip(Image.open(batch).tobytes(), images[2], strict=True)]
    assert max(apart) <= 1


def test_each_person_of_a_layout_has_a_look(place: SimpleNamespace) -> None:
    words = ("compose", "a photo of {alice} and {bob}", "--layout", "left,right", "--with", place.adapter)
    pair = ("--look", "alice=a.png", "--look", "bob=b.png", "--scale", 1)
    document = json.loads(run(*words, *pair, *DRAW, "--json").stdout)
    sums = [[pictures.read_photo(Path(name)).sha256] for name in ("a.png", "b.png")]
    assert document["look_sha256"] == dict(zip(("alice@1", "bob@1"), sums, strict=True))
    first = Path(document["pictures"][0]["file"])
    swapped = drawn(*words, "--look", "bob=a.png", "--look", "alice=b.png", "--scale", 1)
    assert Image.open(first).convert("RGB").tobytes() != swapped
    command = run("info", "-q", first).stdout
    assert "--look=alice@1=LOOK" in command and "--look=bob@1=LOOK" in command
    command = command.replace("alice@1=LOOK", "alice@1=a.png").replace("bob@1=LOOK", "bob@1=b.png")
    again = shlex.split(command.replace("=plus.safetensors", f"={place.adapter}"))[1:]
    assert Path(run(*again, "--out", "again").stdout.strip()).read_bytes() == first.read_bytes()
    everywhere = drawn(*words, "--look", "a.png", "--scale", 1)
    assert everywhere not in (swapped, Image.open(first).convert("RGB").tobytes())


def test_a_look_in_a_background(place: SimpleNamespace) -> None:
    tiny.photo(7, (64, 64)).save("room.png")
    words = ("compose", "{alice} in snow", "--background", "room.png", "--box", "8,8,40,40")
    assert drawn(*words) != drawn(*words, "--with", place.adapter, "--look", "a.png", "--scale", 1)


def refused(code: int, *words: object) -> str:
    done = run(*words, "--steps", 2, "--json", code=code)
    problem = json.loads(done.stderr.splitlines()[-1]) if done.stderr.startswith("{") else json.loads(done.stdout)
    return f"{problem['what']}: {problem['next']}"


def test_what_cannot_be_used_is_said_in_one_message(place: SimpleNamespace) -> None:
    words = ("render", "alice", "as a cowboy")
    look = ("--look", "a.png")
    assert "add for example --with ip-adapter" in refused(2, *words, *look)
    assert "--scale needs an adapter" in refused(2, *words, "--scale", 1)
    assert "add --look PICTURE" in refused(2, *words, "--with", place.adapter)
    assert "from 0 to 5, not 6" in refused(2, *words, "--with", place.adapter, *look, "--scale", 6)
    assert "from 0 to 5, not nan" in refused(2, *words, "--with", place.adapter, *look, "--scale", "nan")
    assert "did you mean ip-adapter-plus" in refused(3, *words, "--with", "ip-adapter-pluss", *look)
    assert "`pmagic models pull ip-adapter`" in refused(7, *words, "--with", "ip-adapter", *look)
    assert "alice is a persona, and no prompt" in refused(2, "render", "alice", "--with", place.adapter, *look)
    plain = ("render", "a photo of {alice}", "--with", place.adapter, *look, "--base", place.base)
    assert "the prompt has {alice}, and no persona is named" in refused(2, *plain)
    assert "nowhere.png" in refused(3, *words, "--with", place.adapter, "--look", "nowhere.png")
    assert "name a persona" in refused(2, "render")

    pair = ("compose", "{alice} and {bob}", "--with", place.adapter)
    assert "add --layout" in refused(2, *pair, "--look", "alice=a.png")
    assert "whom the prompt does not name" in refused(2, *pair, "--look", "carl=a.png")
    one = ("--layout", "left", "--look", "alice=a.png")
    assert "bob has none" in refused(2, *pair, *one, "--look", "bob=b.png")
    assert "cannot be together" in refused(2, *pair, *one, "--look", "b.png")


def test_files_that_are_no_adapter_of_this_base(place: SimpleNamespace, xl_base: loading.Base, tmp_path: Path) -> None:
    words = ("render", "alice", "as a cowboy", "--look", "a.png", "--with")
    Path("a.bin").write_bytes(place.adapter.read_bytes())
    assert "pickles, which can hold code" in refused(6, *words, "a.bin")
    tensors = load_file(place.adapter)
    cut = place.adapter.with_name("cut.safetensors")
    cut.write_bytes(place.adapter.read_bytes()[:-100])
    assert "a safetensors file that is cut" in refused(6, *words, cut)
    lora = place.adapter.with_name("lora.safetensors")
    save_file({"unet.lora_up": torch.zeros(1)}, lora)
    assert "a LoRA" in refused(6, *words, lora)
    other = adapter_samples.build_ip_adapter(tmp_path / "xl", xl_base.pipeline.unet)
    assert "was trained for another base: it has 8 cross-attentions that read 80" in refused(6, *words, other)
    shutil.rmtree(place.adapter.parent / "image_encoder")
    assert "needs its image encoder" in refused(7, *words, place.adapter)
    adapter_samples.build_encoder(place.adapter.parent / "image_encoder", projected=40)
    classic = adapter_samples.build_ip_adapter(place.adapter.parent, place.unet)
    assert "reads an embedding 24 wide" in refused(6, *words, classic)
    face_id = place.adapter.with_name("faceid.safetensors")
    renamed = {name.replace("latents", "norm.weight"): each for name, each in tensors.items()}
    save_file(renamed, face_id)
    assert "an IP-Adapter FaceID" in refused(6, *words, face_id)


def test_a_face_adapter_reads_the_face(place: SimpleNamespace) -> None:
    official = place.adapter.with_name("ip-adapter-plus-face_sd15.safetensors")
    shutil.copy(place.adapter, official)
    words = ("render", "alice", "as a cowboy", "--with", official, "--scale", 1)
    assert "no face is found in a.png" in refused(4, *words, "--look", "a.png")
    whole = drawn("render", "alice", "as a cowboy", "--with", place.adapter, "--scale", 1, "--look", "alice.png")
    assert drawn(*words, "--look", "alice.png") != whole


def test_a_pulled_adapter_is_found_by_its_name(place: SimpleNamespace) -> None:
    known = adapter_files.KNOWN["ip-adapter"]
    path = model_spec.place_of("ip-adapter") / known.file
    adapter_samples.build_ip_adapter(path.parent, place.unet).rename(path)
    encoder = model_spec.place_of(adapter_files.ENCODER) / adapter_files.ENCODER_FOLDER
    words = ("render", "alice", "as a cowboy", "--with", "ip-adapter", "--look", "a.png")
    assert "the image encoder of ip-adapter is not on this machine" in refused(7, *words)
    adapter_samples.build_encoder(encoder)
    first = Path(run(*words, *DRAW).stdout.strip())
    assert pictures.read_metadata(first)["adapter"] == "ip-adapter"
    assert "other weights" not in run("info", first).stderr
    adapter_samples.build_ip_adapter(path.parent, place.unet, seed=1).rename(path)
    assert "the adapter ip-adapter has other weights than the one that drew this" in run("info", first).stderr


def test_a_pull_fetches_safetensors_and_the_encoder_once(library: Library, hub_here: Callable[..., LocalHub]) -> None:
    weights = {name: adapter_files.KNOWN[name].file for name in ("ip-adapter", "ip-adapter-plus-face")}
    encoder = [f"models/image_encoder/{each}" for each in ("config.json", "model.safetensors", "pytorch_model.bin")]
    files = {name: name.encode() for name in (*weights.values(), *encoder, "models/ip-adapter_sd15.bin", "README.md")}
    hub = hub_here({adapter_files.REPO: files})
    plan = json.loads(run("models", "pull", "ip-adapter", "--dry-run", "--json").stdout)
    assert [Path(each["folder"]).name for each in plan["would_fetch"]] == ["ip-adapter", "ip-adapter-encoder"]
    assert hub.fetched == []
    shown = run("models", "pull", "ip-adapter")
    assert "licence: openrail" in shown.stderr and "GB to" in shown.stderr
    run("models", "pull", "ip-adapter-plus-face")
    expected = [weights["ip-adapter"], *encoder[:2], weights["ip-adapter-plus-face"]]
    assert sorted(set(hub.fetched)) == sorted(f"{adapter_files.REPO}/{each}" for each in expected)
    here = {each["name"]: each["here"] for each in json.loads(run("models", "list", "--json").stdout)}
    assert {name for name in adapter_files.KNOWN if here[name]} == set(weights)
    place = model_spec.place_of("ip-adapter")
    assert (place / weights["ip-adapter"]).read_bytes() == weights["ip-adapter"].encode()
    assert run("models", "path", "ip-adapter").stdout.strip() == str(place)
    run("models", "rm", "ip-adapter")
    assert not place.exists()


def test_a_repository_without_the_file_is_said(library: Library, hub_here: Callable[..., LocalHub]) -> None:
    hub_here({adapter_files.REPO: {"models/ip-adapter_sd15.bin": b"x"}})
    problem = json.loads(run("models", "pull", "ip-adapter", "--json", code=6).stdout)
    assert "it has no models/ip-adapter_sd15.safetensors" in problem["what"]
