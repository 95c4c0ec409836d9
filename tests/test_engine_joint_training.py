"""Several personas learned together: one difference for all, an embedding for each, the same bytes after a stop."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from pmagic import methods
from pmagic.bases import loading
from pmagic.bases.loading import Base
from pmagic.engine import joint_training, rendering, training
from pmagic.engine.recipes import LearnSettings, RenderSettings
from pmagic.persona import Persona

pytest_plugins = ["tiny"]
FEW = RenderSettings(steps=2, guidance=2.0)
ABLE = ["custom_diffusion", "custom_personamagic"]


def settings_for(name: str, **overrides: object) -> LearnSettings:
    settings = methods.take(name).settings_for("reference", {}, **tiny.train_step(learning_rate=1e-2, **overrides))
    return joint_training.divided(settings, 2, same_steps=True)


def learn(base: Base, name: str, *seeds: int, **more: object) -> list[Persona]:
    subjects = [tiny.known(base, (seed,)) for seed in seeds]
    overrides = {key: more.pop(key) for key in ("iterations", "rank") if key in more}
    settings = [settings_for(name, **overrides) for _ in subjects]
    return methods.take(name).learn_together(base, subjects, settings, **more)


def differences(persona: Persona) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in persona.tensors.items() if name.startswith("weights.")}


@pytest.mark.parametrize("name", ABLE)
def test_each_persona_has_the_same_difference_and_a_name_of_its_own(tiny_base: Base, name: str) -> None:
    before = loading.weights_hash(tiny_base.pipeline)
    alice, tom = learn(tiny_base, name, 0, 1)
    assert differences(alice) == differences(tom) != {}
    assert alice.settings["together"] == tom.settings["together"]
    assert alice.photos != tom.photos and alice.method == tom.method == name
    own = next(each for each in alice.tensors if each.startswith(("learner.", "phrase.")))
    assert not np.array_equal(alice.tensors[own], tom.tensors[own])
    other, _ = learn(tiny_base, name, 0, 2)
    assert other.settings["together"] != alice.settings["together"]
    assert loading.weights_hash(tiny_base.pipeline) == before and tiny.hooks_of(tiny_base) == []


@pytest.mark.parametrize("name", ABLE)
def test_together_the_difference_is_worn_once_and_each_draws_alone(tiny_base: Base, name: str) -> None:
    alice, tom = learn(tiny_base, name, 0, 1)
    method, unet = methods.take(name), tiny_base.pipeline.unet
    weight = "attn2.to_k"
    module = next(each for path, each in unet.named_modules() if path.endswith(weight))
    seen = []
    for worn in ([alice], [tom], [alice, tom]):
        with method.apply(tiny_base, worn):
            seen.append(module._parameters["weight"].detach().clone())
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], module.weight)
    drawn = rendering.compose(tiny_base, {"alice": alice, "tom": tom}, "a photo of {alice} and {tom}", [1], FEW)
    for persona in (alice, tom):
        alone = rendering.render(tiny_base, persona, "a photo of {} and a face", [1], FEW)
        assert alone[0].tobytes() != drawn[0].tobytes()


@pytest.mark.parametrize("name", ABLE)
def test_a_stop_resumes_to_the_same_bytes(tiny_base: Base, tmp_path: Path, name: str) -> None:
    file = tmp_path / "x.checkpoint"

    def stop(report: training.StepReport) -> None:
        if report.step == 2:
            raise KeyboardInterrupt

    whole = learn(tiny_base, name, 0, 1, iterations=4)
    with pytest.raises(KeyboardInterrupt):
        learn(tiny_base, name, 0, 1, iterations=4, on_step=stop, checkpoint=file)
    resumed = learn(tiny_base, name, 0, 1, iterations=4, checkpoint=file)
    for one, other in zip(whole, resumed, strict=True):
        assert {k: v.tobytes() for k, v in one.tensors.items()} == {k: v.tobytes() for k, v in other.tensors.items()}
        assert one.losses == other.losses


def test_the_gradient_is_the_mean_of_each_subjects(tiny_base: Base) -> None:
    """The shared difference gets half of each subject's own gradient; an embedding only its own subject's."""
    name, gradients = "custom_diffusion", {}
    method, settings = methods.take(name), settings_for(name)
    subjects = [tiny.known(tiny_base, (seed,)) for seed in (0, 1)]
    for number, subject in enumerate(subjects):
        own = replace(settings, seed=settings.seed + number)
        learner = method.make_learner(tiny_base, subject, settings)
        context = training.prepare_training(tiny_base, subject, own)
        training.make_losses(context, learner)(training.sample_of_step(subject, own, 0))
        gradients[number] = {key: each.grad for key, each in learner.named_parameters()}
    learners = [method.make_learner(tiny_base, each, settings) for each in subjects]
    learners[1].difference = learners[0].difference
    contexts = [training.prepare_training(tiny_base, each, settings) for each in subjects]
    for number, (context, learner) in enumerate(zip(contexts, learners, strict=True)):
        own = replace(settings, seed=settings.seed + number)
        training.add_gradients(context, learner, training.sample_of_step(context.subject, own, 0), share=0.5)
    for key, parameter in learners[0].named_parameters():
        wanted = 0.5 * gradients[0][key]
        if key.startswith("difference."):
            wanted = wanted + 0.5 * gradients[1][key]
        assert torch.allclose(parameter.grad, wanted, rtol=1e-4, atol=1e-8), key
    groups = joint_training.JointLearner(learners).groups(settings)
    sizes = [len(each["params"]) for each in groups]
    assert sizes == [len(list(learners[0].difference.parameters())), 1, 1]


def test_low_rank_is_the_same_in_both(tiny_base: Base) -> None:
    alice, tom = learn(tiny_base, "custom_diffusion", 0, 1, rank=2)
    assert differences(alice) == differences(tom)
    assert any(each.endswith(".up") for each in alice.tensors) and 0 < alice.settings["lost_to_rank"] < 1


def test_each_subject_has_as_many_samples_as_alone() -> None:
    alone = methods.take("custom_diffusion").settings_for("reference", {})
    both = joint_training.divided(alone, 2, same_steps=False)
    assert both.iterations * both.batch == alone.iterations * alone.batch == 1000
    assert joint_training.divided(alone, 3, same_steps=True).batch == 1
