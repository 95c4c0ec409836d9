"""Class pictures and prior preservation: drawn once, the same each time, a term of its own in the same UNet call."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import tiny
import torch
from torch import nn

from pmagic import methods
from pmagic.bases.loading import Base
from pmagic.engine import class_pictures, randomness, training
from pmagic.engine.recipes import LearnSettings
from pmagic.engine.subject import Subject
from pmagic.errors import UsageError
from pmagic.losses import mse
from pmagic.tasks import base_options

pytest_plugins = ["tiny"]

FEW = {"render": {"steps": 2}}


@pytest.fixture(scope="module")
def base(tiny_base: Base) -> Base:
    return replace(tiny_base, spec=replace(tiny_base.spec, defaults=FEW))


def pictured(base: Base, count: int, root: Path) -> Subject:
    return replace(tiny.known(base), class_latents=class_pictures.class_latents(base, "face", count, root))


def settings_for(method: str, **overrides: object) -> LearnSettings:
    return methods.take(method).settings_for("reference", {}, **tiny.train_step(**overrides))


def test_pictures_are_drawn_once_and_more_of_them_begin_with_the_same(base: Base, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    five = class_pictures.class_latents(base, "face", 5, tmp_path, lambda *done: calls.append(done))
    assert five.shape == (5, 4, 8, 8) and five.dtype == base.learner_dtype
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]  # two groups of two sampler steps
    assert class_pictures.count_missing(base, "face", 8, tmp_path) == 0
    assert class_pictures.count_missing(base, "face", 9, tmp_path) == class_pictures.AT_ONCE
    assert torch.equal(class_pictures.class_latents(base, "face", 3, tmp_path, lambda *done: pytest.fail()), five[:3])
    again = class_pictures.class_latents(base, "face", 9, tmp_path / "elsewhere")
    assert torch.equal(again[:5], five)
    assert len({row.numpy().tobytes() for row in again}) == 9  # each has noise of its own
    size = sum(
        len(safetensors.torch.load_file(each)["latents"].numpy().tobytes()) for each in tmp_path.glob("face-*/*")
    )
    assert size == class_pictures.kept_bytes(base, 8)


def test_pictures_are_of_one_base_word_and_sampler(base: Base, tmp_path: Path) -> None:
    folders = {
        class_pictures.folder_of(each, word, tmp_path)
        for word in ("face", "dog")
        for each in (base, replace(base, fingerprint="other"), replace(base, spec=replace(base.spec, defaults={})))
    }
    assert len(folders) == 6
    strange = class_pictures.folder_of(base, "../x", tmp_path)
    assert strange.parent == tmp_path and ".." not in strange.name


@pytest.mark.parametrize("damage", [b"", b"not latents", None])
def test_what_cannot_be_used_is_drawn_again(base: Base, tmp_path: Path, damage: bytes | None) -> None:
    before = class_pictures.class_latents(base, "face", 4, tmp_path)
    (path,) = tmp_path.glob("face-*/*")
    if damage is None:
        safetensors.torch.save_file({"latents": torch.full((4, 4, 8, 8), torch.nan)}, path)
    else:
        path.write_bytes(damage)
    assert class_pictures.count_missing(base, "face", 4, tmp_path) == 4
    assert torch.equal(class_pictures.class_latents(base, "face", 4, tmp_path), before)


def test_a_stop_keeps_the_groups_that_are_drawn(base: Base, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        class_pictures.class_latents(base, "face", 8, tmp_path, stop)
    assert class_pictures.count_missing(base, "face", 8, tmp_path) == 4


def test_the_samples_of_photos_are_the_same_with_and_without() -> None:
    settings = settings_for("dreambooth")
    plain = randomness.sample_step(settings, 2, 3, (4, 8, 8), torch.float32)
    prior = randomness.sample_step(settings_for("dreambooth", prior=7), 2, 3, (4, 8, 8), torch.float32)
    for name in ("photo", "t", "posterior", "noise", "template", "open_prompt", "keep", "keep_open"):
        assert torch.equal(getattr(plain, name), getattr(prior, name)), name
    assert len(plain.class_picture) == 0 and prior.class_noise.shape == (1, 4, 8, 8)
    many = [randomness.sample_step(settings_for("dreambooth", prior=7), k, 3, (1,), torch.float32) for k in range(300)]
    assert {int(each.class_picture) for each in many} == set(range(7))
    assert min(int(each.class_t) for each in many) < 50 and max(int(each.class_t) for each in many) >= 950


def test_the_term_of_an_untrained_learner_is_the_bases_own_error(base: Base, tmp_path: Path) -> None:
    """One UNet call for both kinds of rows; each mean apart; the class pictures' prompt is plain."""
    method, settings = methods.take("dreambooth"), settings_for("dreambooth", prior=4, batch=2)
    subject = pictured(base, 4, tmp_path)
    context = training.prepare_training(base, subject, settings)
    learner = method.make_learner(base, subject, settings)
    sample = training.sample_of_step(subject, settings, 0)
    rows: list[int] = []
    handle = base.pipeline.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    try:
        loss, terms = training.make_losses(context, learner)(sample)
    finally:
        handle.remove()
    assert rows == [settings.rows] == [4]
    assert loss.item() == pytest.approx(terms["mse"].item() + terms["prior"].item(), rel=1e-6)
    ids = base.pipeline.tokenizer("a photo of a face", padding="max_length", max_length=77).input_ids
    with torch.no_grad():
        text = base.pipeline.text_encoder(torch.tensor([ids])).last_hidden_state.expand(2, -1, -1)
        noisy = context.schedule.add_noise(
            subject.class_latents[sample.class_picture], sample.class_noise, sample.class_t
        )
        (found,) = base.pipeline.unet(noisy, sample.class_t, encoder_hidden_states=text, return_dict=False)
    assert terms["prior"].item() == pytest.approx((found - sample.class_noise).square().mean().item(), rel=1e-5)
    without = training.make_losses(
        training.prepare_training(base, subject, replace(settings, prior=0, losses={"mse": 1.0})), learner
    )(training.sample_of_step(subject, replace(settings, prior=0), 0))[1]
    assert terms["mse"].item() == pytest.approx(without["mse"].item(), rel=1e-5)


def test_a_weight_of_zero_is_no_prior(base: Base, tmp_path: Path) -> None:
    method, subject = methods.take("lora"), pictured(base, 4, tmp_path)
    plain, zero, one = (
        method.learn(base, subject, settings_for("lora", **each))
        for each in ({}, {"prior": 4, "losses": {"mse": 1.0, "prior": 0.0}}, {"prior": 4})
    )
    bytes_of = [{name: array.tobytes() for name, array in each.tensors.items()} for each in (plain, zero, one)]
    assert bytes_of[0] == bytes_of[1] != bytes_of[2]
    assert set(one.losses) == {"mse", "prior"}
    assert one.settings["prior"] == 4
    assert one.settings["class_pictures"] == class_pictures.digest(subject.class_latents)
    assert "prior" not in plain.settings and "class_pictures" not in plain.settings


@pytest.mark.parametrize("name", ["dreambooth", "lora", "custom_diffusion", "custom_personamagic"])
def test_a_stopped_learning_resumes_to_the_same_bytes(base: Base, tmp_path: Path, name: str) -> None:
    method, subject = methods.take(name), pictured(base, 4, tmp_path)
    settings, file = settings_for(name, prior=4, iterations=3), tmp_path / "x.checkpoint"

    def stop(report: training.StepReport) -> None:
        if report.step == 2:
            raise KeyboardInterrupt

    whole = method.learn(base, subject, settings)
    with pytest.raises(KeyboardInterrupt):
        method.learn(base, subject, settings, stop, file)
    resumed = method.learn(base, subject, settings, checkpoint=file)
    assert {k: v.tobytes() for k, v in resumed.tensors.items()} == {k: v.tobytes() for k, v in whole.tensors.items()}
    assert resumed.losses == whole.losses


def test_the_term_holds_the_class_word(base: Base, tmp_path: Path) -> None:
    """After the same steps, the base's own pictures of the class are denoised better with the term than without."""
    method, subject = methods.take("dreambooth"), pictured(base, 8, tmp_path)
    errors = []
    for prior in (0, 8):
        settings = settings_for("dreambooth", prior=prior, iterations=30, rank=0, learning_rate=1e-3)
        persona = method.learn(base, subject, settings)
        with method.apply(base, [persona]):
            errors.append(class_error(base, subject))
    assert errors[1] < errors[0]


def class_error(base: Base, subject: Subject) -> float:
    settings = settings_for("dreambooth", prior=8, batch=16)
    context = training.prepare_training(base, subject, settings)
    learner = nn.Identity()
    learner.forward = lambda t, image: (torch.zeros(len(t), 2, tiny.WIDTH), None)
    with torch.no_grad():
        output = training.forward_step(context, learner, training.sample_of_step(subject, settings, 99))
    shown = replace(output, prediction=output.class_prediction, target=output.class_target)
    return mse.loss(shown).mean().item()


@pytest.mark.parametrize("name", ["personamagic", "textual_inversion"])
def test_a_method_without_weights_refuses(name: str) -> None:
    for overrides, option in (({"prior": 8}, "--prior"), ({"rank": 2}, "--rank")):
        with pytest.raises(UsageError, match="changes no weight") as caught:
            settings_for(name, **overrides)
        assert option in caught.value.next_step
    assert settings_for(name, prior=0, rank=0).prior == 0


def test_published_values_with_class_pictures() -> None:
    """DreamBooth takes 800 steps instead of 400, Custom Diffusion twice its rate; the base's file stands above."""
    values = [methods.take("dreambooth").settings_for("reference", {}, prior=each).iterations for each in (None, 200)]
    assert values == [400, 800]
    for name, rates in (("custom_diffusion", [2e-5, 4e-5, 3e-4]), ("custom_personamagic", [2e-5, 4e-5, 3e-4])):
        own = {"learn": {name: {"learning_rate": 3e-4, "prior": 8}}}
        asked = [({}, {}), ({}, {"prior": 9}), (own, {})]
        found = [methods.take(name).settings_for("reference", of_base, **given) for of_base, given in asked]
        assert [each.learning_rate for each in found] == rates
        assert [each.prior for each in found] == [0, 9, 8]
        assert [each.losses.get("prior") for each in found] == [None, 1.0, 1.0]
        quarter = methods.take(name).settings_for("reference", {}, prior=4, losses={"masked_mse": 4.0, "prior": 1.0})
        assert quarter.losses == {"masked_mse": 4.0, "prior": 1.0}  # the ratio of diffusers' example


def test_memory_counts_the_rows_of_class_pictures(tiny_base: Base) -> None:
    method = methods.take("lora")
    needs: Callable[..., int] = lambda **given: base_options.memory_to_learn(  # noqa: E731
        method, tiny_base.spec, method.settings_for("reference", {}, **given), "cpu", "float32"
    )
    assert needs(prior=4) == needs(batch=2) > needs()
