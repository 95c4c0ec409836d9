"""The training loop learns, is reproducible, resumes where it stopped, and changes nothing but its learner."""

import dataclasses
import math
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import tiny
import torch

from pmagic.bases import loading
from pmagic.engine import checkpoint, mapper, randomness, training
from pmagic.engine.recipes import settings_for
from pmagic.engine.subject import Subject
from pmagic.errors import BundleDamaged, Incompatible, NumericFailure
from pmagic.methods import personamagic
from pmagic.persona import REFERENCE_BOUNDS, Persona

pytest_plugins = ["tiny"]


@pytest.fixture(scope="module")
def known(tiny_base: loading.Base) -> Subject:
    return tiny.known(tiny_base)


def same(left: Persona, right: Persona) -> bool:
    return left.tensors.keys() == right.tensors.keys() and all(
        np.array_equal(left.tensors[name], right.tensors[name]) for name in left.tensors
    )


def learned(base: loading.Base, known: Subject, **overrides: object) -> Persona:
    return personamagic.learn(base, known, settings_for("reference", {}, **tiny.train_step(**overrides)))


def new_mapper(base: loading.Base, known: Subject) -> mapper.Mapper:
    shape = mapper.MapperShape(4, tiny.WIDTH, known.image_embedding.shape[-1])
    with randomness.seeded_weights(0):
        return mapper.Mapper(shape, torch.full((tiny.WIDTH,), 0.1), REFERENCE_BOUNDS)


def test_learning_lowers_the_loss_of_the_same_draw(tiny_base: loading.Base, known: Subject) -> None:
    settings = settings_for("reference", {}, **tiny.train_step(losses={"masked_mse": 1.0}, residual_dropout=0.0))
    context = training.prepare_training(tiny_base, known, settings)
    learner = new_mapper(tiny_base, known)
    optimizer = training.make_optimizer(learner, settings)
    draw = randomness.sample_step(settings, 0, 1, known.mean.shape[1:], torch.float32)
    losses = [
        training.optimizer_step(training.make_train_step(context, learner), optimizer, draw)[0] for _ in range(30)
    ]
    assert losses[-1] < losses[0] - 1e-4
    assert losses[-1] == min(losses)


def test_two_runs_give_the_same_bits_and_another_seed_others(tiny_base: loading.Base, known: Subject) -> None:
    first = learned(tiny_base, known)
    torch.manual_seed(12345)  # the process's own generator does not matter
    assert same(first, learned(tiny_base, known))
    assert not same(first, learned(tiny_base, known, seed=1))


def test_the_process_generator_is_left_alone(tiny_base: loading.Base, known: Subject) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    learned(tiny_base, known, iterations=1)
    assert torch.equal(before, torch.get_rng_state())


def test_nothing_frozen_gets_a_gradient_and_the_base_is_unchanged(tiny_base: loading.Base, known: Subject) -> None:
    before = loading.weights_hash(tiny_base.pipeline)
    learned(tiny_base, known)
    assert loading.weights_hash(tiny_base.pipeline) == before
    for name in loading.models_of(tiny_base.pipeline):
        assert all(weight.grad is None for weight in getattr(tiny_base.pipeline, name).parameters())
    assert tiny.hooks_of(tiny_base) == []


def test_a_dropped_residual_has_gradients_of_zero_not_none(tiny_base: loading.Base, known: Subject) -> None:
    settings = settings_for("reference", {}, **tiny.train_step(residual_dropout=1.0))
    context = training.prepare_training(tiny_base, known, settings)
    learner = new_mapper(tiny_base, known)
    draw = randomness.sample_step(settings, 0, 1, known.mean.shape[1:], torch.float32)
    training.optimizer_step(
        training.make_train_step(context, learner), training.make_optimizer(learner, settings), draw
    )
    assert learner.residual_out.weight.grad.abs().max() == 0
    assert learner.dynamic_out.weight.grad.abs().max() > 0


def test_reports_count_up_and_name_the_losses(tiny_base: loading.Base, known: Subject) -> None:
    reports: list[training.StepReport] = []
    settings = settings_for("reference", {}, **tiny.train_step())
    persona = personamagic.learn(tiny_base, known, settings, reports.append)
    assert [(each.step, each.total) for each in reports] == [(1, 3), (2, 3), (3, 3)]
    assert set(reports[0].losses) == set(persona.losses) == {"masked_mse", "tandem_equilibrium"}
    weights = settings.losses
    for each in reports:
        assert each.loss == pytest.approx(sum(weights[name] * value for name, value in each.losses.items()), rel=1e-5)
    mean = sum(each.losses["masked_mse"] for each in reports) / 3
    assert persona.losses["masked_mse"] == pytest.approx(mean)


def test_without_an_open_loss_no_open_prompt_is_encoded(tiny_base: loading.Base, known: Subject) -> None:
    rows: list[int] = []
    hook = tiny_base.pipeline.text_encoder.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    try:
        learned(tiny_base, known, iterations=1, losses={"masked_mse": 1.0, "tandem_equilibrium": 0.0})
        learned(tiny_base, known, iterations=1)
    finally:
        hook.remove()
    assert rows == [2, 4]


def test_several_photos_each_use_their_own_embedding(tiny_base: loading.Base) -> None:
    known = tiny.known(tiny_base, (0, 1, 2))
    persona = learned(tiny_base, known)
    assert persona.photos == known.hashes
    np.testing.assert_allclose(persona.tensors["image_embedding"], known.image_embedding.mean(dim=0).numpy(), rtol=1e-6)


def test_a_loss_that_is_not_finite_is_refused(tiny_base: loading.Base, known: Subject) -> None:
    broken = dataclasses.replace(known, mean=torch.full_like(known.mean, math.nan))
    with pytest.raises(NumericFailure, match="the loss became nan") as raised:
        learned(tiny_base, broken)
    assert "learning rate below 0.001" in raised.value.next_step


class Stop(Exception):
    pass


def stopping_at(step: int) -> Callable[[training.StepReport], None]:
    def on_step(report: training.StepReport) -> None:
        if report.step == step:
            raise Stop

    return on_step


def test_an_interrupted_learning_resumes_to_the_same_bits(
    tiny_base: loading.Base, known: Subject, tmp_path: Path
) -> None:
    settings = settings_for("reference", {}, **tiny.train_step(iterations=7))
    whole = personamagic.learn(tiny_base, known, settings)
    file = tmp_path / "deeper" / "alice.safetensors"
    for stop in (2, 5):
        with pytest.raises(Stop):
            personamagic.learn(tiny_base, known, settings, stopping_at(stop), checkpoint=file)
    steps: list[int] = []
    resumed = personamagic.learn(tiny_base, known, settings, lambda report: steps.append(report.step), checkpoint=file)
    assert steps == [6, 7]
    assert same(whole, resumed)
    assert whole.losses == resumed.losses
    assert [path.name for path in file.parent.iterdir()] == ["alice.safetensors"]
    again = personamagic.learn(tiny_base, known, settings, stopping_at(1), checkpoint=file)  # finished: nothing to do
    assert same(whole, again)


def test_a_checkpoint_is_written_every_few_steps(
    tiny_base: loading.Base, known: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    saved: list[int] = []
    monkeypatch.setattr(checkpoint.Checkpoint, "save", lambda self, step, *rest: saved.append(step))
    settings = settings_for("reference", {}, **tiny.train_step(iterations=5))
    personamagic.learn(tiny_base, known, settings, checkpoint=tmp_path / "a")
    assert saved == [2, 4, 5]


def test_writing_a_large_checkpoint_never_dominates(
    tiny_base: loading.Base, known: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of ten seconds, saves of thirty: every two minutes at first, then every ten, and one at the end."""
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(checkpoint, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(checkpoint, "LARGE", 1)
    saved: list[float] = []

    def save(self: checkpoint.Checkpoint, step: int, *rest: object) -> None:
        saved.append(clock.now)
        clock.now += 30

    def on_step(report: training.StepReport) -> None:
        clock.now += 10

    monkeypatch.setattr(checkpoint.Checkpoint, "save", save)
    settings = settings_for("reference", {}, **tiny.train_step(iterations=150))
    personamagic.learn(tiny_base, known, settings, on_step, checkpoint=tmp_path / "a")
    assert saved == [120.0, 750.0, 1380.0, 1580.0]


def test_a_checkpoint_shares_the_memory_of_what_it_holds() -> None:
    """The file is what the library writes of the same tensors, in pieces that are no copies."""
    tensors = {"a": torch.ones(3), "b": torch.tensor(2.0, dtype=torch.float64), "c": torch.zeros(0, 2).bfloat16()}
    pieces = checkpoint._file(tensors, {"x": "y"})
    read = safetensors.torch.load(b"".join(pieces))
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    tensors["a"][1] = 5
    assert safetensors.torch.load(b"".join(pieces))["a"].tolist() == [1, 5, 1]


def test_a_checkpoint_of_another_learning_is_refused(tiny_base: loading.Base, known: Subject, tmp_path: Path) -> None:
    file = tmp_path / "alice.safetensors"
    settings = settings_for("reference", {}, **tiny.train_step())
    with pytest.raises(Stop):
        personamagic.learn(tiny_base, known, settings, stopping_at(1), checkpoint=file)
    others = [
        (known, settings_for("reference", {}, **tiny.train_step(seed=1))),
        (dataclasses.replace(known, mask=torch.ones_like(known.mask)), settings),
        (dataclasses.replace(known, hashes=("f" * 64,)), settings),
    ]
    for subject, other in others:
        with pytest.raises(Incompatible, match="another photo, base, version or settings"):
            personamagic.learn(tiny_base, subject, other, checkpoint=file)


def test_a_damaged_checkpoint_is_refused(tiny_base: loading.Base, known: Subject, tmp_path: Path) -> None:
    file = tmp_path / "alice.safetensors"
    settings = settings_for("reference", {}, **tiny.train_step())
    with pytest.raises(Stop):
        personamagic.learn(tiny_base, known, settings, stopping_at(1), checkpoint=file)
    whole = file.read_bytes()
    for place in (4, 40, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(BundleDamaged):
            personamagic.learn(tiny_base, known, settings, checkpoint=file)
    for length in (0, 5, len(whole) // 2):
        file.write_bytes(whole[:length])
        with pytest.raises(BundleDamaged):
            personamagic.learn(tiny_base, known, settings, checkpoint=file)


def test_draws_are_those_of_seed_and_step_and_stay_in_bounds() -> None:
    settings = settings_for("reference", {}, batch=64, bounds=(100, 110))
    first = randomness.sample_step(settings, 3, 2, (4, 8, 8), torch.float32)
    again = randomness.sample_step(settings, 3, 2, (4, 8, 8), torch.float32)
    other = randomness.sample_step(settings, 4, 2, (4, 8, 8), torch.float32)
    assert torch.equal(first.noise, again.noise) and not torch.equal(first.noise, other.noise)
    assert not torch.equal(first.noise, first.posterior)
    assert set(first.t.tolist()) <= set(range(100, 110)) and len(set(first.t.tolist())) > 5
    assert set(first.photo.tolist()) == {0, 1}
    assert 10 < first.keep.sum() < 54 and not torch.equal(first.keep, first.keep_open)
