"""Every method on the shelf, on every layout: it learns, its persona is stored and rendered, the base is unchanged."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny

from pmagic import shelf
from pmagic.bases import loading
from pmagic.engine import rendering, training
from pmagic.engine.recipes import RenderSettings
from pmagic.errors import Incompatible, UsageError
from pmagic.library.store import Library
from pmagic.methods import personamagic, textual_inversion
from pmagic.persona import Persona, StageBounds

pytest_plugins = ["tiny"]

FEW = RenderSettings(steps=4, guidance=3.0)


@pytest.mark.parametrize("layout", ["sd1", "sd2", "fp16"])
@pytest.mark.parametrize("name", shelf.names("methods"))
def test_learn_keep_wear(tiny_folders: dict[str, Path], library: Library, name: str, layout: str) -> None:
    base = tiny.open_base(tiny_folders[layout])
    before = loading.weights_hash(base.pipeline)
    method = shelf.take("methods", name)
    settings = method.settings_for("reference", base.spec.defaults, **tiny.train_step())
    reports: list[training.StepReport] = []
    persona = method.learn(base, tiny.known(base), settings, reports.append)
    assert (persona.method, persona.fingerprint, persona.word) == (name, base.fingerprint, "face")
    assert persona.bounds == settings.bounds
    assert persona.settings["tokens"] == settings.tokens
    assert set(persona.losses) == set(settings.losses)
    assert [each.step for each in reports] == [1, 2, 3]
    address = library.save("alice", persona)
    _, kept = library.load(str(address))
    assert kept.settings == persona.settings
    prompt = "a photo of {} in the snow"
    fresh = rendering.render(base, persona, prompt, [3], FEW)
    assert rendering.render(base, kept, prompt, [3], FEW)[0].tobytes() == fresh[0].tobytes()
    assert rendering.render(base, None, prompt, [3], FEW, word="face")[0].tobytes() != fresh[0].tobytes()
    assert loading.weights_hash(base.pipeline) == before
    assert tiny.hooks_of(base) == []


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
    with pytest.raises(Incompatible, match="not those of a mapper"), personamagic.wear(tiny_base, hostile):
        pass


def test_a_mapper_with_a_photo_of_another_length_is_incompatible(tiny_base: loading.Base) -> None:
    persona = personamagic.learn(
        tiny_base, tiny.known(tiny_base), personamagic.settings_for("reference", {}, **tiny.train_step())
    )
    hostile = replace(persona, tensors={**persona.tensors, "image_embedding": np.zeros(5, np.float32)})
    with pytest.raises(Incompatible, match="not those of a mapper"), personamagic.wear(tiny_base, hostile):
        pass


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("name", shelf.names("methods"))
def test_learning_in_the_fast_type(tiny_folders: dict[str, Path], name: str, mixed: bool) -> None:
    """What `auto` does on hardware with bfloat16: the UNet computes in it, everything else stays in float32."""
    base = tiny.open_fast(tiny_folders["sd1"], mixed=mixed)
    method = shelf.take("methods", name)
    persona = method.learn(base, tiny.known(base), method.settings_for("reference", {}, **tiny.train_step()))
    assert persona.settings["autocast"] == "bfloat16"
    assert all(array.dtype == np.float32 for array in persona.tensors.values())
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
    with textual_inversion.wear(tiny_base, persona) as wording:
        found = wording([999.0, 500.0, 1.0])
    assert found[999.0] is found[1.0]
    assert found[1.0].residual is None


def test_textual_inversion_refuses_bounds(tiny_base: loading.Base) -> None:
    settings = textual_inversion.settings_for("reference", {}, **tiny.train_step(bounds=(400, 800)))
    with pytest.raises(UsageError, match="no bounds 400:800"):
        textual_inversion.learn(tiny_base, tiny.known(tiny_base), settings)
