"""Training on world 2: corpora that grow, twins in one batch, the inputs of CLIP and CLIPSeg, the gates of layout."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPTokenizer

from pmagic.engine import recipes
from pmagic.engine.probe import GRID
from pmagic.experiments import layout_control, measuring, probe_gate
from pmagic.experiments.stages import rise
from pmagic.mini import (
    base_material,
    base_teacher,
    corpus,
    layout_gates,
    train,
    train_base,
    train_clip,
    train_clipseg,
    train_vae,
)
from pmagic.vision import faces
from pmagic.vision.clip import PREFIX
from pmagic.world.samples import sample


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Begun from the shipped weights, with a corpus that was drawn in two goes."""
    folder = tmp_path_factory.mktemp("world2")
    corpus.make(folder / "corpus", 60, version=2, workers=1)
    train.take_up(folder, version=2)
    vae, tokenizer = train_vae.load_trained(folder), _tokenizer(folder)
    base_material.material(folder, vae, tokenizer)
    corpus.make(folder / "corpus", 160, version=2, workers=1)
    return folder


@pytest.fixture(scope="module")
def given(work: Path) -> base_material.Material:
    return base_material.material(work, train_vae.load_trained(work), _tokenizer(work))


def _tokenizer(work: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(work / "base" / "tokenizer")


def test_a_corpus_grows_and_keeps_what_was_drawn(work: Path) -> None:
    data = corpus.load(work / "corpus")
    assert data.version == 2 and data.side == 96 and len(data.captions) == len(data.images) == 160
    for number in (3, 59, 60, 159):
        again = sample(number, version=2)
        assert (data.images[number] == again.drawing.image).all() and data.captions[number] == again.caption
        assert (data.things[number] == again.drawing.thing_mask).all()
    with pytest.raises(SystemExit, match="world 2, not 1"):
        corpus.make(work / "corpus", 200, version=1)


def test_latents_are_encoded_once_and_keep_the_shipped_scale(work: Path, given: base_material.Material) -> None:
    assert given.latents.shape == (160, 4, 24, 24) and given.faces.shape == (160, 1, 24, 24)
    shipped = json.loads((train.WEIGHTS / "base" / "vae" / "config.json").read_text())["scaling_factor"]
    assert base_material.scaling(work) == shipped
    first = np.load(work / "latents.npy")[:60]
    corrupted = first.copy()
    corrupted[0] = 7
    np.save(work / "latents.npy", corrupted)  # what is there is not encoded again
    again = base_material.latents_of(work, corpus.load(work / "corpus").images, train_vae.load_trained(work))
    assert (again[0] == 7).all() and len(again) == 160
    np.save(work / "latents.npy", np.concatenate([first, again[60:]]))


def test_the_run_begins_with_the_shipped_weights(work: Path) -> None:
    shipped, _ = train_base.load_exported(train.WEIGHTS)
    begun = train_base.load_trained(work)
    assert begun.unet.config.sample_size == 24
    for key, weight in shipped.state_dict().items():
        own = begun.state_dict()[key]
        torch.testing.assert_close(own[: len(weight)] if key == train.TOKEN_TABLE else own, weight, rtol=0, atol=1e-3)


def test_twins_share_timestep_and_noise_and_say_their_layouts(work: Path, given: base_material.Material) -> None:
    teacher = base_teacher.Teacher(given, None, None, torch.Generator().manual_seed(3))
    data = corpus.load(work / "corpus")
    asked = (
        (teacher._twins(4), data.layout_captions, base_teacher.EARLY_OF_TWINS),
        (teacher._short_twins(4), data.short_captions, base_teacher.EARLY_OF_SHORTS),
    )
    for batch, captions, _ in asked:
        first, second = batch.rows.chunk(2)
        assert (first % 2 == 0).all() and (second == first + 1).all()
        assert torch.equal(*batch.t.chunk(2)) and torch.equal(*batch.noise.chunk(2))
        said = base_material.read(_tokenizer(work), [captions[row] for row in batch.rows])
        assert torch.equal(batch.said.ids, said.ids) and torch.equal(batch.said.lengths, said.lengths)
    for draw, (_, _, early) in zip((teacher._twins, teacher._short_twins), asked, strict=True):
        times = torch.cat([draw(4).t for _ in range(200)])
        assert times.median() == pytest.approx(1000 * 0.5**early, abs=25)


def test_short_twins_stand_at_the_left_and_the_right(work: Path, given: base_material.Material) -> None:
    data = corpus.load(work / "corpus")
    assert len(given.sided) > 20
    for row in given.sided.tolist():
        words = {data.short_captions[row].split()[-1], data.short_captions[row + 1].split()[-1]}
        assert words == {"left", "right"}


@pytest.mark.parametrize(("share", "singles", "twins", "short"), [(0.0, 4, 0, 6), (0.3, 8, 3, 1), (0.9, 8, 3, 1)])
def test_a_run_teaches_sides_first(
    share: float, singles: int, twins: int, short: int, work: Path, given: base_material.Material
) -> None:
    networks = train_base.load_trained(work).train()
    teacher, asked = base_teacher.Teacher(given, networks, networks.unet, torch.Generator().manual_seed(3)), []
    for name in ("_singles", "_twins", "_short_twins"):
        ask = getattr(teacher, name)
        setattr(
            teacher, name, lambda count, *given, ask=ask, name=name: asked.append((name, count)) or ask(count, *given)
        )
    relative, error = teacher.losses(16, base_teacher.mixture(share))
    wanted = {"_singles": singles, "_twins": twins, "_short_twins": short}
    assert dict(asked) == {name: count for name, count in wanted.items() if count}
    assert torch.isfinite(relative) and 0 < error < 2
    relative.backward()
    table = networks.text.get_input_embeddings().weight
    assert table.grad is not None and networks.unet.conv_in.weight.grad.abs().sum() > 0


def test_clip_is_asked_to_tell_twins_apart(work: Path) -> None:
    data = corpus.load(work / "corpus")
    batches = train_clip.Batches(data, np.random.default_rng(0))
    rows, texts = batches.next(32)
    first, second, single = rows[:8], rows[8:16], rows[16:]
    assert (second == first + 1).all() and len(set(first)) == 8 and len(single) == 16
    assert all(a != b for a, b in zip(texts[:8], texts[8:16], strict=True))
    assert [text.removeprefix(PREFIX) for text in texts[:16]] == [data.layout_words[row] for row in rows[:16]]
    assert [text.startswith(PREFIX) for text in texts[:8]] == [text.startswith(PREFIX) for text in texts[8:16]]
    assert any(text.startswith(PREFIX) for text in texts)


def test_an_untrained_clip_finds_layouts_by_chance(work: Path) -> None:
    torch.manual_seed(0)
    clip = train_clip.network(_tokenizer(work), 96).eval()
    assert clip.config.vision_config.image_size == 96
    assert train_clip.layout_accuracy(clip, _tokenizer(work), pictures=4) < 0.3
    words = {tuple(train_clip.layout_words(sample(k, 2).scene)) for k in range(120)}
    assert len(words) == 12


def test_clipseg_is_asked_for_the_face_and_for_the_thing_beside_it(work: Path) -> None:
    questions = train_clipseg.Questions(work, seed=0)
    data = corpus.load(work / "corpus")
    both = [k for k, shown in enumerate(questions.shown) if len(shown) == 2]
    assert both
    kind = questions.shown[both[0]][1]
    assert f" {kind}" in data.captions[both[0]] and questions.shown[both[0]][0] == "face"
    picture = torch.zeros(5, 4, 4)
    picture[3, 0], picture[4, 1] = 1, 1
    for word, row in (("woman", 0), (kind, 1)):
        assert torch.equal(
            questions._mask(picture, ("face", kind), word).sum(dim=1).nonzero().flatten(), torch.tensor([row])
        )
    assert (
        not questions._mask(picture, ("face",), kind).any()
        and not questions._mask(picture, ("face", kind), "sky").any()
    )
    pixels, texts, masks = questions.batch()
    assert pixels.shape == (train_clipseg.BATCH, 3, 48, 48) and masks.shape == (len(texts), 48, 48)


def test_the_gates_question_differs_by_one_word_of_the_layout() -> None:
    sides = layout_gates.question("side")
    for right, wrong in zip(sides.right, sides.wrong, strict=True):
        changed = [(a, b) for a, b in zip(right.split(), wrong.split(), strict=True) if a != b]
        assert changed in ([("left", "right")], [("right", "left")])
    framings = layout_gates.question("framing")
    for texts in zip(framings.right, framings.wrong, strict=True):
        assert texts[0] != texts[1] and not {"left", "right"} & set(" ".join(texts).split())


def test_gates_are_recorded_with_the_samples_seen(work: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Of networks that read no word, the error is the same with any."""
    monkeypatch.setattr(layout_gates, "TIMES", (800,))
    networks = train_base.load_trained(work)
    deaf = lambda noisy, t, states: type("Found", (), {"sample": noisy})()  # noqa: E731
    monkeypatch.setattr(networks, "unet", torch.nn.Identity())
    monkeypatch.setattr(networks.unet, "forward", deaf)
    layout_gates.record(work, networks, samples=16_000)
    (line,) = (work / layout_gates.FILE).read_text().splitlines()
    assert json.loads(line) == {"samples": 16_000, "framing 800": 0.0, "side 800": 0.0}
    assert "side at 800 +0.00%" in capsys.readouterr().out


@pytest.mark.parametrize(("version", "side"), [(1, 64), (2, 96)])
def test_what_a_base_wants_is_readable_and_of_its_world(version: int, side: int) -> None:
    learn = tomllib.loads(train_base.settings_text(version, side))["learn"]
    settings = recipes.settings_for("paper", {"learn": learn})
    says_layout = [text for text in settings.templates if "close-up" in text or "cropped" in text]
    assert bool(says_layout) == (version == 1) and len(settings.templates) >= 10
    assert f"{side} x {side} pixels" in train_base.settings_text(version, side)


def test_the_shipped_settings_are_those_of_world_1() -> None:
    assert (train.WEIGHTS / "base" / "pmagic.toml").read_text() == train_base.settings_text(1, 64)


@pytest.mark.slow
def test_the_probe_sees_a_bust_better_as_noise_falls() -> None:
    points = probe_gate.curve(measuring.open_base(), measuring.TRAINING)
    assert [t for t, _ in points] == list(GRID) and rise(points) > 0.7


def test_layouts_are_read_from_the_detectors_face() -> None:
    pack = faces.load(train.WEIGHTS / "faces_a")
    for asked in ("close", "half", "left", "middle", "right"):
        found = layout_control.shares(pack, layout_control.drawings(asked, 8), asked)
        assert found.one_face >= 0.85 and found.obeyed >= 0.85, asked
    left = layout_control.drawings("left", 8)
    assert layout_control.shares(pack, left, "right").obeyed == 0
    blank = [Image.new("RGB", (96, 96), "gray")]
    assert layout_control.shares(pack, blank, "left") == layout_control.Shares(0.0, 0.0)
