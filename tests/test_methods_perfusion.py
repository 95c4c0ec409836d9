"""Perfusion: the numbers of the public code, what the gated edit must do, and a life from learning to two at once."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from golden import close
from golden.method_numbers import numbers
from test_losses_shelf import output
from torch import Tensor
from torch.nn import functional as F

from pmagic.bases import loading
from pmagic.engine import captions, memory, rank_one_edit, rendering, token_batch, training
from pmagic.engine.attention import cross_attentions
from pmagic.engine.conditioning import Condition, packed_kv
from pmagic.engine.hooks import installed_hooks
from pmagic.engine.rank_one_edit import Concepts, rank_one_edits
from pmagic.engine.recipes import LearnSettings, RenderSettings
from pmagic.errors import Incompatible, UsageError
from pmagic.losses import soft_mask_mse
from pmagic.methods import lora, neti, perfusion, personamagic
from pmagic.persona import Persona

pytest_plugins = ["tiny"]

FEW = RenderSettings(steps=4, guidance=3.0, negative="man with dog")
TRAIN, DRAW = perfusion.TRAIN_GATE, perfusion.DRAW_GATE


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return numbers("perfusion")


def concepts(golden: dict[str, Tensor], which: tuple[int, ...], *gates: tuple[float, float]) -> Concepts:
    rows = torch.stack([golden[f"i.{number}"] for number in which])
    every = gates if len(gates) == len(which) else gates * len(which)
    return Concepts(rows, rows @ golden["C_inv"], torch.tensor(every, dtype=torch.float64))


def edited(
    golden: dict[str, Tensor], which: tuple[int, ...], kind: str, *gates: tuple[float, float], e: str = "e"
) -> Tensor:
    weight = golden[f"W_{kind}"]
    targets = torch.stack([golden[f"o_{kind}.{number}"] for number in which])
    rows = golden[e]
    return rows @ weight.T + concepts(golden, which, *gates).correction(rows, weight, targets)


@pytest.mark.parametrize("kind", ["K", "V"])
def test_one_concept_is_the_public_codes(golden: dict[str, Tensor], kind: str) -> None:
    close(edited(golden, (0,), kind, TRAIN), golden[f"single.train.{kind}"], 1e-10)
    close(edited(golden, (0,), kind, DRAW), golden[f"single.draw.{kind}"], 1e-10)
    close(edited(golden, (0,), "K", DRAW, e="e_super"), golden["single.draw.K.global"], 1e-10)


def test_several_concepts_are_the_public_codes(golden: dict[str, Tensor]) -> None:
    for kind in ("K", "V"):
        close(edited(golden, (0, 1), kind, DRAW), golden[f"two.{kind}"], 1e-10)
    close(edited(golden, (0, 1, 2), "V", DRAW), golden["three.V"], 1e-10)
    close(edited(golden, (1, 0), "V", DRAW), golden["two.swapped.V"], 1e-10)
    close(edited(golden, (0, 1), "V", (0.6, 0.15), (0.7, 0.1)), golden["two.V.own_gates"], 1e-10)
    close(edited(golden, (0,), "V", DRAW), golden["one_of_many.V"], 1e-10)
    close(edited(golden, (0, 1), "K", DRAW, e="e_super"), golden["two.K.global"], 1e-10)


def test_gradients_are_the_public_codes(golden: dict[str, Tensor]) -> None:
    e, o = golden["e"].clone().requires_grad_(), golden["o_V.0"].clone().requires_grad_()
    found = e @ golden["W_V"].T + concepts(golden, (0,), TRAIN).correction(e, golden["W_V"], o[None])
    (found * golden["probe"]).sum().backward()
    close(o.grad, golden["grad.o_V"], 1e-10)
    close(e.grad, golden["grad.e"], 1e-10)


def test_start_and_moving_average_are_the_public_codes(golden: dict[str, Tensor]) -> None:
    places = golden["start.places"].long()
    close(golden["start.super_encodings"][torch.arange(4), places].mean(dim=0), golden["start.i"], 1e-12)
    i = golden["start.i"]
    for number in (1, 2, 3):
        i = perfusion.moving_average(i, golden[f"average.{number}.encodings"])
        close(i, golden[f"average.{number}.i"], 1e-12)


def test_the_loss_is_the_public_codes(golden: dict[str, Tensor]) -> None:
    mask = F.interpolate(golden["loss.mask"], size=(8, 8), mode="bilinear")
    found = soft_mask_mse.loss(output(prediction=golden["loss.eps"], target=golden["loss.noise"], mask=mask))
    highest = mask.amax(dim=(1, 2, 3))  # theirs is divided by it beforehand
    close((found * highest.square()).mean()[None], golden["loss.value"], 1e-12)


def test_what_holds_nothing_of_the_concept_stays_and_the_concept_becomes_its_target(golden: dict[str, Tensor]) -> None:
    one, weight = concepts(golden, (0,), DRAW), golden["W_V"]
    i, target = golden["i.0"], golden["o_V.0"][None]
    beside = golden["e"] - (golden["e"] @ one.duals.T) / one.own * i
    taken, _ = one.measure(beside)
    assert taken.abs().max() < 1e-10
    closed = Concepts(one.encodings, one.duals, torch.tensor([[60.0, 0.1]]).double())
    assert closed.correction(beside, weight, target).abs().max() < 1e-10
    assert closed.correction(golden["e"], weight, target).abs().max() > 0.1  # the part along i goes in any case
    wide_open = Concepts(one.encodings, one.duals, torch.tensor([[-60.0, 0.1]]).double())
    close(i @ weight.T + wide_open.correction(i, weight, target), target[0], 1e-10)


def test_the_scale_of_the_covariance_does_not_matter(golden: dict[str, Tensor]) -> None:
    one = concepts(golden, (0, 1), DRAW)
    scaled = Concepts(one.encodings, 7.0 * one.duals, one.gates)
    for left, right in zip(one.measure(golden["e"]), scaled.measure(golden["e"]), strict=True):
        close(left, right, 1e-10)


def test_orthogonal_concepts_are_each_as_alone(golden: dict[str, Tensor]) -> None:
    inverse, first, second = golden["C_inv"], golden["i.0"], golden["i.1"]
    second = second - (second @ inverse @ first) / (first @ inverse @ first) * first
    rows = torch.stack([first, second])
    gates = torch.tensor([DRAW, DRAW], dtype=torch.float64)
    both = Concepts(rows, rows @ inverse, gates).measure(golden["e"])[0]
    for number in range(2):
        one = slice(number, number + 1)
        alone = Concepts(rows[one], (rows @ inverse)[one], gates[one]).measure(golden["e"])[0]
        close(both[..., one], alone, 1e-10)


def test_the_inverse_covariance_is_one_and_is_made_once_for_a_base() -> None:
    rows = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)).double() @ torch.diag(
        torch.arange(1.0, 7).double()
    )
    inverse = rank_one_edit.inverse_covariance(rows)
    assert torch.allclose(inverse @ (rows.T @ rows / 500), torch.eye(6).double(), atol=1e-3)
    close(rank_one_edit.inverse_covariance(torch.cat([rows, rows])), inverse, 1e-12)  # a mean over the rows
    module, calls = torch.nn.Linear(1, 1), []

    def read() -> Tensor:
        calls.append(1)
        return rows

    assert rank_one_edit.cached_inverse(module, read) is rank_one_edit.cached_inverse(module, read)
    assert len(calls) == 1
    rank_one_edit.cached_inverse(torch.nn.Linear(1, 1), read)
    assert len(calls) == 2


def settings(**overrides: object) -> LearnSettings:
    own = {"batch": 2, "learning_rate": 0.03, **overrides}
    return perfusion.settings_for("reference", {}, **tiny.train_step(**own))


@pytest.fixture(scope="module")
def alice(tiny_base: loading.Base) -> Persona:
    return perfusion.learn(tiny_base, tiny.known(tiny_base), settings())


@pytest.fixture(scope="module")
def bob(tiny_base: loading.Base) -> Persona:
    return perfusion.learn(tiny_base, tiny.known(tiny_base, (1,)), settings(seed=1))


def test_the_published_values_and_the_bases_own() -> None:
    own = perfusion.settings_for("paper", {"learn": {"learning_rate": 1.0}})
    assert (own.learning_rate, own.token_rate, own.batch, own.iterations) == (0.03, 0.006, 16, 400)
    assert dict(own.losses) == {"soft_mask_mse": 1.0}
    base = perfusion.settings_for("paper", {"learn": {"perfusion": {"token_rate": 2.0}}}, batch=3)
    assert (base.learning_rate, base.token_rate, base.batch) == (0.03, 2.0, 3)


@pytest.mark.parametrize(
    ("overrides", "message"), [({"bounds": (400, 800)}, "no bounds 400:800"), ({"tokens": 2}, "one token, not 2")]
)
def test_other_settings_are_refused(tiny_base: loading.Base, overrides: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        perfusion.learn(tiny_base, tiny.known(tiny_base), settings(**overrides))


def test_rates_of_targets_and_token(tiny_base: loading.Base) -> None:
    learner = perfusion.make_learner(tiny_base, tiny.known(tiny_base), settings())
    groups = training.make_optimizer(learner, settings()).param_groups
    assert [each["lr"] for each in groups] == [0.03, 0.006]
    assert [len(each["params"]) for each in groups] == [len(cross_attentions(tiny_base.pipeline.unet)), 1]


def test_every_layer_is_edited_in_its_own_keys_and_values(tiny_base: loading.Base) -> None:
    """Of a packed condition, of one for each layer, and of a plain one; and the untrained concept is the class word."""
    unet = tiny_base.pipeline.unet
    learner = perfusion.make_learner(tiny_base, tiny.known(tiny_base), settings())
    layers, w = list(cross_attentions(unet).values()), tiny.WIDTH
    source = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(1, 5, len(layers) * w, generator=source) for _ in range(2))
    keys[:, 2], values[:, 3] = (learner.encoding.repeat(len(layers)) for _ in range(2))
    edit = Concepts(learner.encoding[None], learner.dual[None], learner.gate)
    for packed in (
        Condition(keys, values, layers=len(layers)).pack(),
        Condition(keys[..., :w], values[..., :w]).pack(),
        keys[..., :w],
    ):
        plain, changed = ([], [])
        for seen, inside in ((plain, False), (changed, True)):
            hooks = [
                (each, lambda *call, seen=seen: seen.append(call[2]))
                for layer in layers
                for each in (layer.to_k, layer.to_v)
            ]
            locked, free = ([each[None] for each in some] for some in (learner.locked, learner.values))
            with torch.no_grad(), packed_kv(unet):
                if inside:
                    with rank_one_edits(unet, edit, locked, free), installed_hooks(after=hooks):
                        unet(torch.ones(1, 4, 8, 8), torch.tensor(5), encoder_hidden_states=packed)
                else:
                    with installed_hooks(after=hooks):
                        unet(torch.ones(1, 4, 8, 8), torch.tensor(5), encoder_hidden_states=packed)
        own = packed.shape[-1] > 2 * w
        for number, layer in enumerate(layers):
            for half, projection, target, rows in (
                (0, layer.to_k, learner.locked[number], keys), (1, layer.to_v, learner.values[number], values)
            ):  # fmt: skip
                rows = keys if packed.shape[-1] == w else rows
                e = rows[..., number * w : (number + 1) * w] if own else rows[..., :w]
                with torch.no_grad():
                    expected = projection(e) + edit.correction(e, projection.weight, target[None])
                assert torch.allclose(changed[2 * number + half], expected, atol=1e-5)
                assert not torch.allclose(plain[2 * number + half], expected, atol=1e-3)
    assert torch.allclose(learner.locked[0], layers[0].to_k(learner.encoding), atol=1e-5)
    assert tiny.hooks_of(tiny_base) == []


def test_keys_stay_locked_and_the_encoding_is_a_moving_average(tiny_base: loading.Base) -> None:
    how = settings(iterations=3)
    context = training.prepare_training(tiny_base, tiny.known(tiny_base), how)
    learner = perfusion.make_learner(tiny_base, context.subject, how)
    locked, i = [each.clone() for each in learner.locked], learner.encoding.clone()
    step, optimizer = training.make_train_step(context, learner), training.make_optimizer(learner, how)
    for number in range(3):
        sample = training.sample_of_step(context.subject, how, number)
        batch = context.templates.select(sample.template)
        with torch.no_grad():
            seen = perfusion.placeholder_encodings(tiny_base, batch, learner.token)
        i = 0.99 * i + 0.01 * seen.mean(dim=0)
        training.optimizer_step(step, optimizer, training.prepare_step(context, learner, number))
        assert torch.allclose(learner.encoding, i, atol=1e-6)
        expected = learner.inverse @ learner.encoding.double()
        assert torch.allclose(learner.dual.double(), expected, rtol=1e-4, atol=float(expected.abs().max()) * 1e-5)
    assert all(torch.equal(left, right) for left, right in zip(locked, learner.locked, strict=True))
    word = token_batch.word_embedding(tiny_base, "face")
    assert not torch.equal(learner.token[0], word) and not torch.equal(learner.values[0], locked[0])


def test_resume_and_less_memory_give_the_same_bytes(tiny_base: loading.Base, tmp_path: Path) -> None:
    """The moving average is part of the checkpoint, also of one after the last step."""
    how, known = settings(iterations=4), tiny.known(tiny_base)
    whole = perfusion.learn(tiny_base, known, how)

    def stop_at(last: int) -> Callable[[training.StepReport], None]:
        def stop(report: training.StepReport) -> None:
            if report.step == last:
                raise KeyboardInterrupt

        return stop

    found = []
    for last in (2, 4):
        file = tmp_path / f"{last}.checkpoint"
        with pytest.raises(KeyboardInterrupt):
            perfusion.learn(tiny_base, known, how, stop_at(last), file)
        found.append(perfusion.learn(tiny_base, known, how, checkpoint=file))
    with memory.gradient_checkpointing(tiny_base.pipeline):
        found.append(perfusion.learn(tiny_base, known, how))
    for other in found:
        assert {k: v.tobytes() for k, v in other.tensors.items()} == {k: v.tobytes() for k, v in whole.tensors.items()}


def test_less_memory_is_the_same_in_half_precision(tiny_folders: dict[str, Path]) -> None:
    """The gate reads the condition before it is rounded, however many hooks are around the UNet."""
    base = tiny.open_fast(tiny_folders["sd1"], fp32_norms=True)
    known, how = tiny.known(base), settings(iterations=2)
    whole = perfusion.learn(base, known, how)
    with memory.gradient_checkpointing(base.pipeline):
        low = perfusion.learn(base, known, how)
    for name, array in whole.tensors.items():
        assert np.allclose(low.tensors[name], array, rtol=1e-5, atol=1e-6), name


def test_a_compiled_unet_is_refused(tiny_base: loading.Base) -> None:
    context = training.prepare_training(tiny_base, tiny.known(tiny_base), settings())
    learner = perfusion.make_learner(tiny_base, context.subject, settings())
    with pytest.raises(UsageError, match="compiled anew"):
        training.make_train_step(replace(context, base=replace(tiny_base, compiled=True)), learner)


def test_several_in_one_prompt(tiny_base: loading.Base, alice: Persona, bob: Persona) -> None:
    """With one another, with personas of other methods, and each in its region, in any order of the cast."""
    known = tiny.known(tiny_base)
    others = [
        each.learn(tiny_base, known, each.settings_for("reference", {}, **tiny.train_step(batch=2)))
        for each in (personamagic, lora, neti)
    ]
    before = loading.weights_hash(tiny_base.pipeline)
    prompt = "a photo of {a} with {b}"
    cast = {"a": alice, "b": bob}
    casts = [cast, {"a": bob, "b": alice}, {"a": alice, "b": "dog"}, *({"a": alice, "b": each} for each in others)]
    drawn = [rendering.compose(tiny_base, each, prompt, [3], FEW)[0].tobytes() for each in casts]
    assert len(set(drawn)) == len(casts)
    swapped = {"b": bob, "a": alice}
    assert rendering.compose(tiny_base, swapped, prompt, [3], FEW)[0].tobytes() == drawn[0]
    regions = {"a": (0.0, 0.0, 0.5, 1.0), "b": (0.5, 0.0, 1.0, 1.0)}
    assert rendering.compose(tiny_base, cast, prompt, [3], FEW, regions=regions)[0].tobytes() not in drawn
    assert loading.weights_hash(tiny_base.pipeline) == before
    assert tiny.hooks_of(tiny_base) == []


def test_a_persona_twice_is_the_persona_once(tiny_base: loading.Base, alice: Persona) -> None:
    prompt = "{a} with {b}"
    twice = rendering.compose(tiny_base, {"a": alice, "b": replace(alice)}, prompt, [3], FEW)[0]
    with perfusion.apply(tiny_base, [alice]) as (schedule,):
        script = rendering.encode_prompt(tiny_base, {"a": schedule, "b": schedule}, prompt, FEW)
        noise = rendering.initial_noise(tiny_base, [3], tiny.SIZE, tiny.SIZE)
        latents = rendering.sample(tiny_base, script, noise, FEW)
    assert twice.tobytes() == rendering._decode(tiny_base, latents)[0].tobytes()


def test_the_gate_of_a_persona_decides(tiny_base: loading.Base, alice: Persona) -> None:
    assert alice.settings["gate"] == [0.6, 0.15]
    usual = rendering.render(tiny_base, alice, "{} in snow", [3], FEW)[0]
    closed = replace(alice, settings={**alice.settings, "gate": [60.0, 0.15]})
    assert rendering.render(tiny_base, closed, "{} in snow", [3], FEW)[0].tobytes() != usual.tobytes()
    for gate in ([0.6, 0.0], [0.6], "wide", [0.6, "x"], [0.6, float("nan")]):
        hostile = replace(alice, settings={**alice.settings, "gate": gate})
        with pytest.raises(Incompatible, match="not those of Perfusion"), perfusion.apply(tiny_base, [hostile]):
            pass


@pytest.mark.parametrize("name", ["learner.token", "encoding", "dual", "class_encoding", "learner.values.1"])
@pytest.mark.parametrize("shape", [None, (), (3,), (2, 3)])
def test_tensors_of_another_shape_are_incompatible(
    tiny_base: loading.Base, alice: Persona, name: str, shape: tuple[int, ...] | None
) -> None:
    tensors = {key: array for key, array in alice.tensors.items() if key != name}
    if shape is not None:
        tensors[name] = np.zeros(shape, np.float32)
    hostile = replace(alice, tensors=tensors)
    with pytest.raises(Incompatible, match="not those of Perfusion"), perfusion.apply(tiny_base, [hostile]):
        pass
    assert tiny.hooks_of(tiny_base) == []


def test_a_persona_is_small_and_names_its_sentences(tiny_base: loading.Base, alice: Persona) -> None:
    assert alice.settings["captions"] == perfusion.captions_digest()
    assert len(set(captions.captions())) > 500
    shapes = [tuple(array.shape) for name, array in alice.tensors.items() if name.startswith("learner.values.")]
    assert shapes == [(each.to_v.out_features,) for each in cross_attentions(tiny_base.pipeline.unet).values()]
