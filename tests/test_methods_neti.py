"""NeTI: the numbers of the authors' own code, conditions by layer, and a life from learning to two personas at once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from golden import close
from golden.method_numbers import numbers, uniform, weight
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from pmagic.bases import loading, memory_estimate
from pmagic.engine import composing, layer_mapper, memory, rendering, step_cache, token_batch, training
from pmagic.engine.attention import cross_attentions
from pmagic.engine.composing import LearnedTokens, constant_schedule
from pmagic.engine.conditioning import Condition, encode, packed_kv
from pmagic.engine.hooks import installed_hooks
from pmagic.engine.layer_mapper import HIDDEN, LayerMapper, position_features
from pmagic.engine.recipes import LearnSettings, RenderSettings
from pmagic.errors import Incompatible, UsageError
from pmagic.methods import neti, personamagic
from pmagic.persona import Persona
from pmagic.tasks import base_options

pytest_plugins = ["tiny"]

FEW = RenderSettings(steps=4, guidance=3.0, negative="man with dog")
PLACEHOLDER = 57


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return numbers("neti")


@pytest.fixture(scope="module")
def trained(golden: dict[str, Tensor]) -> LayerMapper:
    """The mapper whose answers the numbers are."""
    mapper = LayerMapper(golden["word"], 16, golden["R"], batch=12)
    with torch.no_grad():
        for name, value in mapper.named_parameters():
            if name != "net.0.weight":
                own = name.replace("output_layer.", "output_layer.0.")
                value.copy_(weight(f"neti/{own}", value.shape))
    return mapper


@pytest.fixture(scope="module")
def text_encoder() -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=60, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77, bos_token_id=58, eos_token_id=59, pad_token_id=59,
    )  # fmt: skip
    encoder = CLIPTextModel(config).double().eval()
    with torch.no_grad():
        for name, value in encoder.named_parameters():
            full = name if name.startswith("text_model.") else f"text_model.{name}"
            value.copy_(weight(f"text_encoder.neti/{full}", value.shape))
    return encoder.requires_grad_(False)


def test_the_mapper_is_the_authors(golden: dict[str, Tensor], trained: LayerMapper) -> None:
    t, layer = golden["t"], golden["l"]
    features = position_features(t, layer, trained.frequencies)
    close(features[:3], golden["f"], 1e-11)
    close(features.sum(dim=1), golden["f.sum"], 1e-11)
    close(trained.net[0].weight[:, :8], golden["anchors.first8"], 1e-11)
    close(trained.net[0].weight.sum(dim=1), golden["anchors.sum"], 1e-11)
    close(trained.net(features), golden["h"], 1e-11)
    close(torch.cat(trained.vectors(t, layer), dim=-1), golden["answer"], 1e-11)
    assert torch.allclose(golden["answer"].norm(dim=-1), golden["word"].norm())
    for cut in (0, 1, 17, 127, 128):
        found = trained.vectors(t, layer, torch.tensor([cut]))
        close(torch.cat(found, dim=-1), golden[f"answer.cut{cut}"], 1e-11, str(cut))
    dropped = trained.vectors(t, layer, golden["train.cuts"])
    close(torch.cat(dropped, dim=-1), golden["train.answer.dropped"], 1e-11)


def encoded(
    golden: dict[str, Tensor], encoder: CLIPTextModel, vectors: tuple[Tensor, Tensor], *, bypass: bool = True
) -> Condition:
    ids = golden["ids"].long()
    index = torch.where(ids == PLACEHOLDER, 0, -1)
    u, v = (each.expand(len(ids), -1)[:, None] for each in vectors)
    return encode(encoder, ids, index, u, None, v if bypass else None).condition


def test_keys_and_values_are_the_authors(
    golden: dict[str, Tensor], trained: LayerMapper, text_encoder: CLIPTextModel
) -> None:
    cases = {str(number): (*golden[f"text.{number}.t_l"].double().split(1), None) for number in range(3)}
    one = {"t": torch.tensor([500.0]).double(), "layer": torch.tensor([7.0]).double()}
    cases["cut17"] = (one["t"], one["layer"], torch.tensor([17]))
    cases["mixed"] = (golden["text.mixed.t"].double(), torch.full((2,), 4.0).double(), None)
    for name, (t, layer, kept) in cases.items():
        found = encoded(golden, text_encoder, trained.vectors(t, layer, kept))
        close(found.keys[:, :12], golden[f"text.{name}.keys"], 1e-11, name)
        close(found.values[:, :12], golden[f"text.{name}.values"], 1e-11, name)


def test_gradients_are_the_authors(
    golden: dict[str, Tensor], trained: LayerMapper, text_encoder: CLIPTextModel
) -> None:
    trained.zero_grad()
    found = encoded(golden, text_encoder, trained.vectors(*torch.tensor([[500.0], [7.0]]).double()))
    probe = uniform("neti/probe", (2, 2, 77, 32))
    loss = (found.keys * probe[0]).sum() + (found.values * probe[1]).sum()
    close(loss[None], golden["grad.loss"], 1e-11)
    loss.backward()
    for name, value in trained.named_parameters():
        own = name.replace("output_layer.", "output_layer.0.")
        close(value.grad.norm()[None], golden[f"grad.{own}.norm"], 1e-10, name)
    close(trained.net[0].bias.grad, golden["grad.net.0.bias"], 1e-10)
    close(trained.output_layer.bias.grad, golden["grad.output_layer.0.bias"], 1e-10)


def test_a_bypass_of_zero_is_ignored(
    golden: dict[str, Tensor], trained: LayerMapper, text_encoder: CLIPTextModel
) -> None:
    u, v = trained.vectors(*torch.tensor([[500.0], [7.0]]).double())
    found = encoded(golden, text_encoder, (u, torch.zeros_like(v)))
    assert torch.equal(found.keys, found.values)


def test_each_cross_attention_reads_its_own_condition(tiny_base: loading.Base) -> None:
    """As if each to_k and to_v were called with its own text, in the order of execution."""
    unet, w = tiny_base.pipeline.unet, tiny.WIDTH
    layers = list(cross_attentions(unet).values())
    count = len(layers)
    source = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(1, 5, count * w, generator=source) for _ in range(2))
    seen: list[Tensor] = []

    def see(module: torch.nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(output)

    hooks = [(projection, see) for each in layers for projection in (each.to_k, each.to_v)]
    with torch.no_grad(), packed_kv(unet), installed_hooks(after=hooks):
        unet(
            torch.ones(1, 4, 8, 8),
            torch.tensor(5),
            encoder_hidden_states=Condition(keys, values, layers=count).pack(),
        )
    assert len(seen) == 2 * count
    for number, each in enumerate(layers):
        own = slice(number * w, (number + 1) * w)
        with torch.no_grad():
            assert torch.equal(seen[2 * number], each.to_k(keys[..., own]))
            assert torch.equal(seen[2 * number + 1], each.to_v(values[..., own]))


def test_equal_conditions_of_all_layers_are_one_condition(tiny_base: loading.Base) -> None:
    unet = tiny_base.pipeline.unet
    count = len(cross_attentions(unet))
    keys, values = torch.randn(2, 1, 77, tiny.WIDTH)
    one = Condition(keys, values)
    with torch.no_grad(), packed_kv(unet):
        plain, layered = (
            unet(torch.ones(1, 4, 8, 8), torch.tensor(7), encoder_hidden_states=each.pack()).sample
            for each in (one, one.for_layers(count))
        )
    assert torch.equal(plain, layered)
    with pytest.raises(ValueError, match="none for"):
        one.for_layers(count).for_layers(count + 1)


def test_tokens_for_each_layer_are_encoded_each_by_itself(tiny_base: loading.Base) -> None:
    count = len(cross_attentions(tiny_base.pipeline.unet))
    source = torch.Generator().manual_seed(1)
    tokens, bypass = (torch.randn(count, 1, tiny.WIDTH, generator=source) for _ in range(2))
    prompt = "a photo of {} in snow"
    schedule = constant_schedule(LearnedTokens(tokens, None, bypass))
    found = composing.encode_schedule(tiny_base, prompt, {"": schedule}, [500.0])[500.0]
    assert found.layers == count
    for number in range(count):
        alone = constant_schedule(LearnedTokens(tokens[number], None, bypass[number]))
        one = composing.encode_schedule(tiny_base, prompt, {"": alone}, [500.0])[500.0]
        own = slice(number * tiny.WIDTH, (number + 1) * tiny.WIDTH)
        assert torch.allclose(found.keys[..., own], one.keys, atol=1e-6)
        assert torch.allclose(found.values[..., own], one.values, atol=1e-6)
        assert not torch.equal(one.keys, one.values)


def settings(**overrides: object) -> LearnSettings:
    return neti.settings_for("reference", {}, **tiny.train_step(batch=2, **overrides))


@pytest.fixture(scope="module")
def alice(tiny_base: loading.Base) -> Persona:
    return neti.learn(tiny_base, tiny.known(tiny_base), settings())


@pytest.fixture(scope="module")
def bob(tiny_base: loading.Base) -> Persona:
    return neti.learn(tiny_base, tiny.known(tiny_base, (1,)), settings(seed=1))


def test_the_published_values_and_the_bases_own() -> None:
    own = neti.settings_for("paper", {"learn": {"learning_rate": 1.0}})
    assert (own.learning_rate, own.batch, own.iterations, dict(own.losses)) == (8e-3, 8, 1000, {"mse": 1.0})
    base = neti.settings_for("paper", {"learn": {"neti": {"learning_rate": 2.0}}}, batch=3)
    assert (base.learning_rate, base.batch, base.iterations) == (2.0, 3, 1000)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [({"bounds": (400, 800)}, "no bounds 400:800"), ({"tokens": 2}, "one token, not 2"),
     ({"losses": {"tandem_equilibrium": 1.0}}, "no loss tandem_equilibrium")],
)  # fmt: skip
def test_other_settings_are_refused(tiny_base: loading.Base, overrides: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        neti.learn(tiny_base, tiny.known(tiny_base), settings(**overrides))


def test_nested_dropout_follows_from_seed_and_step(tiny_base: loading.Base) -> None:
    how = settings(iterations=60)
    context = training.prepare_training(tiny_base, tiny.known(tiny_base), how)
    learner = neti.make_learner(tiny_base, context.subject, how)
    assert learner.kept.unique().tolist() == [HIDDEN]  # nothing is cut before the first step
    seen = []
    for step in range(60):
        training.prepare_step(context, learner, step)
        seen.append(learner.kept.clone())
    cut = torch.stack(seen) < HIDDEN  # (60, B, L)
    assert torch.equal(cut.all(dim=1), cut.any(dim=1))  # one coin for each layer and all its rows
    assert 0.35 < cut.float().mean() < 0.65
    values = torch.stack(seen)[cut]
    assert values.min() < 10 and values.max() > 117 and (torch.stack(seen)[:, 0] != torch.stack(seen)[:, 1]).any()
    training.prepare_step(context, learner, 3)
    assert torch.equal(learner.kept, seen[3])


def test_drawing_cuts_nothing_and_keeps_the_frequencies(tiny_base: loading.Base, alice: Persona) -> None:
    learner = neti.make_learner(tiny_base, tiny.known(tiny_base), settings())
    assert np.array_equal(alice.tensors["frequencies"], learner.frequencies.numpy())
    learner.load_state_dict(
        {k.removeprefix("learner."): torch.tensor(v) for k, v in alice.tensors.items() if k.startswith("learner.")}
    )
    with neti.apply(tiny_base, [alice]) as (schedule,), torch.no_grad():
        found = schedule([999.0, 500.0, 500.0, 1.0])
    u, v = learner.vectors(torch.full((4,), 500.0), torch.arange(4.0))
    assert torch.allclose(found[500.0].tokens[:, 0], u, atol=1e-6)
    assert torch.allclose(found[500.0].bypass[:, 0], v, atol=1e-6)
    assert found[500.0].residual is None and not torch.equal(found[999.0].tokens, found[1.0].tokens)


def test_resume_and_less_memory_give_the_same_bytes(tiny_base: loading.Base, tmp_path: Path) -> None:
    how, known, file = settings(iterations=4), tiny.known(tiny_base), tmp_path / "x.checkpoint"

    def stop(report: training.StepReport) -> None:
        if report.step == 2:
            raise KeyboardInterrupt

    whole = neti.learn(tiny_base, known, how)
    with pytest.raises(KeyboardInterrupt):
        neti.learn(tiny_base, known, how, stop, file)
    resumed = neti.learn(tiny_base, known, how, checkpoint=file)
    with memory.gradient_checkpointing(tiny_base.pipeline):
        low = neti.learn(tiny_base, known, how)
    for other in (resumed, low):
        assert {k: v.tobytes() for k, v in other.tensors.items()} == {k: v.tobytes() for k, v in whole.tensors.items()}


def test_several_in_one_prompt(tiny_base: loading.Base, alice: Persona, bob: Persona) -> None:
    """With one another, with a persona of another method, and each in its region."""
    magic = personamagic.learn(
        tiny_base, tiny.known(tiny_base), personamagic.settings_for("reference", {}, **tiny.train_step())
    )
    before = loading.weights_hash(tiny_base.pipeline)
    prompt = "a photo of {a} with {b}"
    cast = {"a": alice, "b": bob}
    pictures = [
        rendering.compose(tiny_base, each, prompt, [3], FEW)[0].tobytes()
        for each in (cast, {"a": bob, "b": alice}, {"a": alice, "b": magic}, {"a": alice, "b": "dog"})
    ]
    assert len(set(pictures)) == 4
    regions = {"a": (0.0, 0.0, 0.5, 1.0), "b": (0.5, 0.0, 1.0, 1.0)}
    for each in (cast, {"a": alice, "b": magic}):
        assert rendering.compose(tiny_base, each, prompt, [3], FEW, regions=regions)[0].tobytes() not in pictures
    assert loading.weights_hash(tiny_base.pipeline) == before
    assert tiny.hooks_of(tiny_base) == []


def test_in_company_each_keeps_its_own_layers(tiny_base: loading.Base, alice: Persona) -> None:
    """Words before the other name are encoded as without it, for each cross-attention."""
    with composing.apply_personas(tiny_base, {"a": alice}) as own:
        alone = composing.encode_schedule(tiny_base, "{a} with dog", own, [500.0])[500.0]
    vectors = torch.randn(2, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    both = {**own, "b": constant_schedule(LearnedTokens(vectors, vectors))}
    found = composing.encode_schedule(tiny_base, "{a} with {b}", both, [500.0])[500.0]
    assert torch.allclose(found.keys[:, :3], alone.keys[:, :3], atol=1e-6)
    assert torch.allclose(found.values[:, :3], alone.values[:, :3], atol=1e-6)
    assert torch.equal((found.keys != found.values).any(dim=-1)[0, 1:5], torch.tensor([True, False, True, True]))


def test_the_step_cache_tells_layers_apart(tiny_base: loading.Base, alice: Persona, bob: Persona) -> None:
    """Even if all steps were shared, another person's condition is another question."""
    cache, unet, fresh = step_cache.UNetCache(), tiny_base.pipeline.unet, []
    for each in (alice, bob, alice):
        with step_cache.cached_first_steps(unet, cache, since=0.0):
            drawn = rendering.render(tiny_base, each, "{} in snow", [5], FEW)[0].tobytes()
        assert drawn == rendering.render(tiny_base, each, "{} in snow", [5], FEW)[0].tobytes()
        fresh.append(drawn)
    assert fresh[0] == fresh[2] != fresh[1]
    assert len(cache) == 2 * FEW.steps


@pytest.mark.parametrize("change", ["no frequencies", "fewer layers", "another width"])
def test_tensors_of_another_mapper_are_incompatible(tiny_base: loading.Base, alice: Persona, change: str) -> None:
    tensors = dict(alice.tensors)
    if change == "no frequencies":
        del tensors["frequencies"]
    elif change == "fewer layers":
        tensors["learner.net.0.bias"] = tensors["learner.net.0.bias"][:-10]
    else:
        tensors["learner.output_layer.bias"] = np.zeros(6, np.float32)
    with (
        pytest.raises(Incompatible, match="not those of NeTI"),
        neti.apply(tiny_base, [replace(alice, tensors=tensors)]),
    ):
        pass


def test_memory_counts_a_text_for_each_layer(tiny_base: loading.Base) -> None:
    spec, how = tiny_base.spec, settings()
    layers = len(cross_attentions(tiny_base.pipeline.unet))
    assert memory_estimate.count_cross_attentions(spec) == layers
    alone = memory_estimate.memory_to_learn(spec, how.batch, trained=neti.count_weights(spec, how))
    texts = 2 * (layers - 1) * int(4 * 77 * 2 * (6.5 * tiny.WIDTH + 2 * 2 * tiny.WIDTH))
    assert base_options.memory_to_learn(neti, spec, how, "cpu", "float32") == alone + texts


def test_the_count_of_the_published_size() -> None:
    assert layer_mapper.count_weights(768, 16) == 563_616


def test_the_negative_prompt_is_the_plain_text_for_every_layer(tiny_base: loading.Base, alice: Persona) -> None:
    with composing.apply_personas(tiny_base, {"": alice}) as schedules:
        script = rendering.encode_prompt(tiny_base, schedules, "{} in snow", FEW)
    plain = token_batch.encode_plain(tiny_base, FEW.negative)
    count = len(cross_attentions(tiny_base.pipeline.unet))
    assert script.negative.shape == (1, 77, 2 * count * tiny.WIDTH)
    keys = script.negative.unflatten(-1, (2 * count, tiny.WIDTH))
    assert torch.equal(keys, plain.keys[:, :, None].expand_as(keys))
