"""Every method on the shelf, on every layout: it learns, its persona is stored and rendered, the base is unchanged."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from typer.testing import CliRunner

from pmagic import methods, shelf
from pmagic.bases import loading
from pmagic.cli.app import app
from pmagic.engine import memory, recipes, rendering, reweighting, token_batch, training
from pmagic.engine.hooks import exchanged_parameters
from pmagic.engine.recipes import LearnSettings, RenderSettings
from pmagic.errors import Incompatible, UsageError
from pmagic.library.naming import folder_of
from pmagic.library.store import Library
from pmagic.methods import _weights, custom_diffusion, custom_personamagic, lora, personamagic, textual_inversion
from pmagic.persona import Persona, StageBounds
from pmagic.tasks import base_options

pytest_plugins = ["tiny"]

FEW = RenderSettings(steps=4, guidance=3.0)


@pytest.mark.parametrize("layout", ["sd1", "sd2", "fp16"])
@pytest.mark.parametrize("name", shelf.names("methods"))
def test_learn_keep_apply(tiny_folders: dict[str, Path], library: Library, name: str, layout: str) -> None:
    base = tiny.open_base(tiny_folders[layout])
    before = loading.weights_hash(base.pipeline)
    method = methods.take(name)
    assert method.TRAINED and method.SOURCE and "\n" not in method.TRAINED + method.SOURCE
    settings = method.settings_for("reference", base.spec.defaults, **tiny.train_step())
    learner = method.make_learner(base, tiny.known(base), settings)
    assert method.count_weights(base.spec, settings) == sum(each.numel() for each in learner.parameters())
    reports: list[training.StepReport] = []
    persona = method.learn(base, tiny.known(base), settings, reports.append)
    assert (persona.method, persona.fingerprint, persona.word) == (name, base.fingerprint, "face")
    assert persona.bounds == settings.bounds
    assert persona.settings["tokens"] == settings.tokens
    assert set(persona.losses) == set(settings.losses)
    assert [each.step for each in reports] == [1, 2, 3]
    address = library.save("alice", persona)
    size = sum(each.stat().st_size for each in folder_of(library.root, address).iterdir())
    assert size < methods.persona_bytes(method, base.spec, settings) < size + methods.PERSONA_FIXED
    _, kept = library.load(str(address))
    assert kept.settings == persona.settings
    prompt = "a photo of {} in the snow"
    fresh = rendering.render(base, persona, prompt, [3], FEW)
    assert rendering.render(base, kept, prompt, [3], FEW)[0].tobytes() == fresh[0].tobytes()
    assert rendering.render(base, None, prompt, [3], FEW, word="face")[0].tobytes() != fresh[0].tobytes()
    assert loading.weights_hash(base.pipeline) == before
    assert tiny.hooks_of(base) == []


@pytest.mark.parametrize("recipe", recipes.RECIPES)
@pytest.mark.parametrize("name", shelf.names("methods"))
def test_only_a_method_with_stages_leaves_bounds_open(name: str, recipe: str) -> None:
    method = methods.take(name)
    assert method.settings_for(recipe, {}).bounds is not None or method.HAS_STAGES


@pytest.mark.parametrize("name", shelf.names("methods"))
def test_trial_steps_are_of_the_methods_own_learner(tiny_base: loading.Base, name: str) -> None:
    """Time and compilation are judged by what will be learned."""
    method, seen = methods.take(name), tiny.known(tiny_base)
    settings = method.settings_for("reference", {}, **tiny.train_step())
    gradient = training.first_step_gradient(tiny_base, seen, settings, method.make_learner)
    assert gradient.shape == (method.count_weights(tiny_base.spec, settings),)
    assert gradient.norm() > 0
    assert training.seconds_per_step(tiny_base, seen, settings, method.make_learner) > 0


def test_the_command_lists_what_there_is() -> None:
    done = CliRunner().invoke(app, ["methods"])
    assert done.exit_code == 0, done.stderr
    for name in methods.names():
        assert f"\n{name}: {methods.take(name).SOURCE}\n" in done.stdout and methods.take(name).TRAINED in done.stdout
    assert max(map(len, done.stdout.splitlines()[: 1 + len(methods.names())])) <= 80
    assert CliRunner().invoke(app, ["methods", "-q"]).stdout.split() == methods.names()
    assert CliRunner().invoke(app, ["methods", "--base", "nowhere"]).exit_code == 3


def test_what_a_method_trains_is_counted_in_its_memory(tiny_base: loading.Base) -> None:
    mapper, token = (methods.take(name) for name in ("personamagic", "textual_inversion"))
    settings = mapper.settings_for("reference", {})
    needs = [base_options.memory_to_learn(each, tiny_base.spec, settings, "cpu", "float32") for each in (mapper, token)]
    more = mapper.count_weights(tiny_base.spec, settings) - token.count_weights(tiny_base.spec, settings)
    assert needs[0] - needs[1] == 16 * more  # weight, gradient, two moments: four numbers of four bytes


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"image_embedding": (), "learner.dynamic_out.bias": (), "learner.image_hidden.0.weight": (4, 4)},
        {"image_embedding": (3,), "learner.dynamic_out.bias": (128,), "learner.image_hidden.0.weight": ()},
        {"image_embedding": (3,), "learner.dynamic_out.bias": (128,), "learner.image_hidden.0.weight": (4, 4)},
    ],
)
def test_tensors_of_another_shape_are_incompatible(
    tiny_base: loading.Base, persona: Callable[..., Persona], tensors: dict[str, tuple[int, ...]]
) -> None:
    """A bundle that verifies may still have been written by somebody hostile."""
    zeros = {name: np.zeros(shape, np.float32) for name, shape in tensors.items()}
    hostile = persona(fingerprint=tiny_base.fingerprint, tensors=zeros)
    with pytest.raises(Incompatible, match="not those of a mapper"), personamagic.apply(tiny_base, [hostile]):
        pass


def test_a_mapper_with_a_photo_of_another_length_is_incompatible(tiny_base: loading.Base) -> None:
    persona = personamagic.learn(
        tiny_base, tiny.known(tiny_base), personamagic.settings_for("reference", {}, **tiny.train_step())
    )
    hostile = replace(persona, tensors={**persona.tensors, "image_embedding": np.zeros(5, np.float32)})
    with pytest.raises(Incompatible, match="not those of a mapper"), personamagic.apply(tiny_base, [hostile]):
        pass


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("name", shelf.names("methods"))
def test_learning_in_the_fast_type(tiny_folders: dict[str, Path], name: str, mixed: bool) -> None:
    """What `auto` does on hardware with bfloat16: the UNet computes in it, everything else stays in float32."""
    base = tiny.open_fast(tiny_folders["sd1"], fp32_norms=mixed)
    method = shelf.take("methods", name)
    persona = method.learn(base, tiny.known(base), method.settings_for("reference", {}, **tiny.train_step()))
    assert persona.settings["autocast"] == "bfloat16"
    assert all(
        array.dtype == (np.float16 if name.startswith("weights.") else np.float32)
        for name, array in persona.tensors.items()
    )
    alone = rendering.render(base, persona, "{} in snow", [4], FEW)[0]
    assert rendering.render(base, persona, "{} in snow", [3, 4], FEW)[1].tobytes() == alone.tobytes()


def test_textual_inversion_is_one_vector_for_every_timestep(tiny_base: loading.Base) -> None:
    settings = textual_inversion.settings_for("reference", {"learn": {"learning_rate": 1e-3, "iterations": 2}})
    assert (settings.tokens, settings.bounds, settings.learning_rate) == (1, StageBounds(0, 1000), 5e-3)
    assert settings.iterations == 2  # the same budget
    persona = textual_inversion.learn(
        tiny_base, tiny.known(tiny_base), textual_inversion.settings_for("reference", {}, **tiny.train_step())
    )
    assert persona.tensors["learner.vectors"].shape == (1, tiny.WIDTH)
    with textual_inversion.apply(tiny_base, [persona]) as (wording,):
        found = wording([999.0, 500.0, 1.0])
    assert found[999.0] is found[1.0]
    assert found[1.0].residual is None


def test_textual_inversion_refuses_bounds(tiny_base: loading.Base) -> None:
    settings = textual_inversion.settings_for("reference", {}, **tiny.train_step(bounds=(400, 800)))
    with pytest.raises(UsageError, match="no bounds 400:800"):
        textual_inversion.learn(tiny_base, tiny.known(tiny_base), settings)


def test_custom_diffusion_apart_and_merged(tiny_base: loading.Base) -> None:
    """Alone each has its own weights; together each phrase is answered as its own weights answer it."""
    settings = custom_diffusion.settings_for("reference", {}, **tiny.train_step(learning_rate=1e-2))
    alice, bob = (custom_diffusion.learn(tiny_base, tiny.known(tiny_base, (seed,)), settings) for seed in (0, 1))
    unet = tiny_base.pipeline.unet
    name = next(name for name, _ in unet.named_parameters() if name.endswith("attn2.to_k.weight"))
    plain = unet.get_parameter(name)
    with custom_diffusion.apply(tiny_base, [alice]) as (schedule,):
        rows, own = custom_diffusion.phrase_rows(tiny_base, schedule), _weight(unet, name).double()
        assert not torch.equal(own.float(), plain)
    with custom_diffusion.apply(tiny_base, [alice, bob]) as schedules:
        assert len(schedules) == 2
        both = _weight(unet, name).double()
    assert torch.allclose(rows @ both.T, rows @ own.T, atol=1e-4) and not torch.allclose(both, own, atol=1e-4)
    with custom_diffusion.apply(tiny_base, [alice, alice]):  # equal weights are applied once
        assert torch.equal(_weight(unet, name).double(), own)
    assert unet.get_parameter(name) is plain


def _weight(unet: torch.nn.Module, name: str) -> torch.Tensor:
    path, _, leaf = name.rpartition(".")
    return unet.get_submodule(path)._parameters[leaf].detach()


def test_the_start_of_the_text_teaches_custom_diffusion_nothing(tiny_base: loading.Base) -> None:
    unet = tiny_base.pipeline.unet
    name = reweighting.select_names(unet, "cross-kv")[0]
    difference = reweighting.WeightDifference(unet, [name])
    projection = unet.get_submodule(name.removesuffix(".weight"))
    grads = []
    for rows in (1, 2):
        text = torch.randn(1, rows, projection.in_features, generator=torch.Generator().manual_seed(rows))
        with exchanged_parameters(unet, difference.weights()), reweighting.without_start_gradient(unet, [name]):
            (projection(text).sum() + 0 * sum(each.sum() for each in difference.parameters())).backward()
        grads.append(difference.parts[name.replace(".", "/")].grad.clone())
        difference.zero_grad()
    assert grads[0].abs().max() == 0
    assert torch.allclose(grads[1], text[0, 1].expand_as(grads[1]))


@pytest.mark.parametrize("name", ["lora", "dreambooth", "custom_diffusion", "custom_personamagic"])
def test_weight_methods_resume_to_the_same_bytes_and_need_no_more_memory(
    tiny_base: loading.Base, tmp_path: Path, name: str
) -> None:
    """Stopped after two of four steps; and with blocks that are computed again in the backward pass."""
    method = shelf.take("methods", name)
    settings = method.settings_for("reference", {}, **tiny.train_step(iterations=4))
    known, file = tiny.known(tiny_base), tmp_path / "x.checkpoint"

    def stop(report: training.StepReport) -> None:
        if report.step == 2:
            raise KeyboardInterrupt

    whole = method.learn(tiny_base, known, settings)
    with pytest.raises(KeyboardInterrupt):
        method.learn(tiny_base, known, settings, stop, file)
    resumed = method.learn(tiny_base, known, settings, checkpoint=file)
    with memory.gradient_checkpointing(tiny_base.pipeline):
        low = method.learn(tiny_base, known, settings)
    assert {k: v.tobytes() for k, v in resumed.tensors.items()} == {k: v.tobytes() for k, v in whole.tensors.items()}
    last_bits = 2e-3 if name == "dreambooth" else 0  # convolutions' gradients are summed in another order there
    for key, array in whole.tensors.items():
        assert np.allclose(low.tensors[key], array, rtol=last_bits, atol=last_bits * 1e-2), key
    assert any(np.any(array) for key, array in whole.tensors.items() if key.startswith("weights."))
    context = replace(training.prepare_training(tiny_base, known, settings), base=replace(tiny_base, compiled=True))
    with pytest.raises(UsageError, match="compiled"):
        training.make_train_step(context, method_learner(tiny_base, settings))


def method_learner(base: loading.Base, settings: LearnSettings) -> torch.nn.Module:
    unet = base.pipeline.unet
    difference = reweighting.WeightDifference(unet, reweighting.select_names(unet, settings.weights))
    return _weights.WeightLearner(torch.nn.Identity(), difference, keeps_start=False)


def test_a_gradient_is_clipped(tiny_base: loading.Base) -> None:
    settings = lora.settings_for("reference", {}, **tiny.train_step())
    context = training.prepare_training(tiny_base, tiny.known(tiny_base), replace(settings, clip=1e-6))
    learner = method_learner(tiny_base, settings)
    name = _weights.rare_name(tiny_base, 0)
    learner.embedding = _weights.Phrase(name, token_batch.word_embedding(tiny_base, "face"), trained=True)
    step, optimizer = training.make_train_step(context, learner), training.make_optimizer(learner, context.settings)
    training.optimizer_step(step, optimizer, training.sample_of_step(context.subject, settings, 0))
    norm = torch.nn.utils.get_total_norm([each.grad for each in learner.parameters()])
    assert norm.item() == pytest.approx(1e-6, rel=1e-3)


def test_rates_of_weights_and_of_what_stands_for_the_name(tiny_base: loading.Base) -> None:
    settings = custom_personamagic.settings_for("paper", {"learn": {"custom_personamagic": {"learning_rate": 1e-4}}})
    assert (settings.learning_rate, settings.token_rate) == (1e-4, 5e-5)
    given = custom_personamagic.settings_for(
        "paper", {"learn": {"custom_personamagic": {"iterations": 7}}}, iterations=3
    )
    assert (given.iterations, given.learning_rate, given.weights) == (3, 2e-5, "cross-kv")
    learner = method_learner(tiny_base, settings)
    learner.embedding = torch.nn.Linear(1, 1)
    groups = training.make_optimizer(learner, settings).param_groups
    assert [each["lr"] for each in groups] == [1e-4, 5e-5]
