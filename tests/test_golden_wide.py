"""A wider set of the authors' numbers, whole matrices of another tiny model, where `PMAGIC_GOLDEN` names its folder.

`test_golden.py` has the numbers that every clone carries; this set is too large for that (37 MB), so it is compared
only where someone has it.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import golden
import pytest
import tiny
import torch
from golden import close
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from pmagic.bases import loading
from pmagic.bases.model_spec import ModelSpec
from pmagic.engine import mapper, randomness, recipes, rendering, subject, token_batch, training
from pmagic.losses import tandem_equilibrium
from pmagic.methods import personamagic
from pmagic.persona import REFERENCE_BOUNDS, Persona

GOLDEN = Path(os.environ.get("PMAGIC_GOLDEN", ""))
SCALING = 0.18215
ROWS = 20  # of 77 text positions in the stored keys and values

pytestmark = pytest.mark.skipif("PMAGIC_GOLDEN" not in os.environ, reason="PMAGIC_GOLDEN names no wider set")


@pytest.fixture(scope="module", autouse=True)
def everything_in_float64() -> Iterator[None]:
    """diffusers computes the UNet's time features with Tensor.float(); the numbers were computed without rounding."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> loading.Base:
    root = tmp_path_factory.mktemp("golden")
    observer = tiny.build_clip(root / "clip", tiny.build_tokenizer(root / "words"))
    return loading.load(
        ModelSpec(name="golden", folder=GOLDEN / "sd", repo=None, clip=observer, size_gb=None, licence=""),
        device="cpu",
        dtype="float64",
    )


@pytest.fixture(scope="module")
def numbers() -> dict[str, Tensor]:
    return load_file(GOLDEN / "training.safetensors")


@pytest.fixture(scope="module")
def drawn() -> dict[str, Tensor]:
    return load_file(GOLDEN / "inference.safetensors")


def golden_mapper(numbers: dict[str, Tensor]) -> mapper.Mapper:
    shape = mapper.MapperShape(tokens=4, text_width=768, image_width=512)
    found = mapper.Mapper(shape, numbers["word_embedding"].reshape(-1).double(), REFERENCE_BOUNDS).double()
    prefix = "mapper."
    found.load_state_dict({k.removeprefix(prefix): v.double() for k, v in numbers.items() if k.startswith(prefix)})
    return found


def train_step(
    base: loading.Base, numbers: dict[str, Tensor], steps: tuple[int, int]
) -> tuple[training.TrainingContext, randomness.StepSample]:
    """Two micro-steps of the reference as one batch of two."""
    many = {name: torch.cat([numbers[f"step{k}.{name}"] for k in steps]) for name in
            ("t", "vae_mean", "vae_std", "latents", "noise", "image_embedding")}  # fmt: skip
    with Image.open(GOLDEN / "person_mask.png") as mask:
        found = subject.latent_mask(mask, many["latents"].shape[-2:])
    known = subject.Subject(
        word="face",
        mean=many["vae_mean"],
        std=many["vae_std"],
        mask=found.expand(2, -1, -1, -1),
        image_embedding=many["image_embedding"],
        hashes=(),
    )
    context = training.prepare_training(base, known, recipes.settings_for("reference", {}))
    placeholders = numbers["placeholder_ids"].tolist()
    main, open_prompts = (
        golden.token_batch(base, torch.cat([numbers[f"step{k}.{kind}.ids"] for k in steps]), placeholders)
        for kind in ("main", "open")
    )
    context = replace(context, templates=main, open_prompts=open_prompts)
    keep, keep_open = (
        torch.stack([(numbers[f"step{k}.{kind}.residual"] != 0).any().double() for k in steps])
        for kind in ("main", "open")
    )
    each = torch.arange(2)
    draw = randomness.StepSample(
        photo=each,
        t=many["t"],
        posterior=(many["latents"] / SCALING - many["vae_mean"]) / many["vae_std"],
        noise=many["noise"],
        template=each,
        open_prompt=each,
        keep=keep,
        keep_open=keep_open,
    )
    return context, draw


@pytest.fixture(scope="module")
def learned(base: loading.Base, numbers: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Two optimizer steps; the engine's values by the names of the golden numbers."""
    learner = golden_mapper(numbers)
    optimizer = None
    found: dict[str, Tensor] = {}
    for steps in ((0, 1), (2, 3)):
        context, draw = train_step(base, numbers, steps)
        optimizer = optimizer or training.make_optimizer(learner, context.settings)
        with torch.no_grad():
            dynamic, residual = learner(draw.t, context.subject.image_embedding)
            output = training.forward_step(context, learner, draw)
            terms = training.loss_terms(context, output)
            loss = training.weighted_sum(context, terms)
            share = tandem_equilibrium.shares(output.attention, output.open_placeholder_index, output.open_lengths)
        for row, k in enumerate(steps):
            found |= {
                f"step{k}.main.dynamic": dynamic[row],
                f"step{k}.open.dynamic": dynamic[row],
                f"step{k}.main.residual": residual[row] * draw.keep[row],
                f"step{k}.open.residual": residual[row] * draw.keep_open[row],
                f"step{k}.latents": output.latents[row],
                f"step{k}.noisy_latents": output.noisy[row],
                f"step{k}.main.keys": output.keys[row, :ROWS],
                f"step{k}.main.values": output.values[row, :ROWS],
                f"step{k}.open.length": output.open_lengths[row].double(),
                f"step{k}.open.attention": output.attention[row],
                f"step{k}.te.placeholder": share[row],
                f"step{k}.te.strongest": 1 - share[row],
                f"step{k}.noise_hat": output.prediction[row],
                f"step{k}.loss": loss[row],
            }
        training.optimizer_step(training.make_train_step(context, learner), optimizer, draw)
        for name, weight in learner.named_parameters():
            for kind, tensor in (("grad", weight.grad), ("after", weight.detach())):
                found[f"step{steps[1]}.{kind}.{name}"] = tensor[: 4 if tensor.ndim > 1 else None].clone()
                found[f"step{steps[1]}.{kind}.{name}.norm"] = tensor.norm()
    yield found


def compare(found: dict[str, Tensor], numbers: dict[str, Tensor], *parts: str) -> None:
    names = [name for name in found if name.split(".", 1)[1].startswith(parts) and name in numbers]
    assert len(names) >= 2
    for name in names:
        close(found[name], numbers[name])


def test_mapper(learned: dict[str, Tensor], numbers: dict[str, Tensor]) -> None:
    compare(learned, numbers, "main.dynamic", "main.residual", "open.dynamic", "open.residual")


def test_word_embedding(base: loading.Base, numbers: dict[str, Tensor]) -> None:
    close(token_batch.word_embedding(base, "face"), numbers["word_embedding"], 0)


def test_noising(learned: dict[str, Tensor], numbers: dict[str, Tensor]) -> None:
    compare(learned, numbers, "latents", "noisy_latents")


def test_text_conditioning(learned: dict[str, Tensor], numbers: dict[str, Tensor]) -> None:
    compare(learned, numbers, "main.keys", "main.values")


def test_tandem_equilibrium(learned: dict[str, Tensor], numbers: dict[str, Tensor]) -> None:
    compare(learned, numbers, "open.length", "open.attention", "te.placeholder", "te.strongest")


def test_noise_prediction_and_loss(learned: dict[str, Tensor], numbers: dict[str, Tensor]) -> None:
    compare(learned, numbers, "noise_hat", "loss")


def test_gradients(learned: dict[str, Tensor], numbers: dict[str, Tensor]) -> None:
    """Of a batch of two: the reference accumulates the halves of two single ones, which is the same mean."""
    compare(learned, numbers, "grad.")


def test_two_optimizer_steps(learned: dict[str, Tensor], numbers: dict[str, Tensor]) -> None:
    compare(learned, numbers, "after.")


@dataclass(frozen=True)
class Trace:
    """The 50 steps as the engine draws them."""

    timesteps: list[float]
    keys: Tensor  # (50, S, w)
    values: Tensor  # (50, S, w)
    eps: list[Tensor]  # after guidance, from the reference's latents of that step
    latents_out: list[Tensor]


@pytest.fixture(scope="module")
def trace(base: loading.Base, drawn: dict[str, Tensor]) -> Trace:
    settings = recipes.render_settings_for("reference", {})
    with personamagic.apply(base, [golden_persona(base, drawn)]) as (wording,):
        script = rendering.encode_prompt(base, {"": wording}, "A photo of {} as a cowboy", settings)
    first = drawn["latents_in"][0]
    own, _, last = golden.sample(base, script, first, settings)
    _, eps, _ = golden.sample(base, script, first, settings, drawn["latents_in"])
    rows = torch.stack([script.rows[t] for t in rendering.timesteps(base, settings)])
    return Trace(rendering.timesteps(base, settings), *rows.chunk(2, dim=-1), eps, [*own[1:], last])


def golden_persona(base: loading.Base, drawn: dict[str, Tensor]) -> Persona:
    tensors = {"image_embedding": drawn["image_embedding"].numpy()}
    for name, weight in drawn.items():
        if name.startswith("mapper."):
            # The reference had stored its persona in float32 before it drew, all but the layer of the time features.
            stored = weight if "time_input" in name else weight.to(torch.float32).double()
            tensors[name.replace("mapper.", "learner.")] = stored.numpy()
    return Persona(
        method="personamagic",
        base="golden",
        fingerprint=base.fingerprint,
        word="face",
        bounds=REFERENCE_BOUNDS,
        tensors=tensors,
    )


def test_sampler_reads_the_stages_conditions(trace: Trace, drawn: dict[str, Tensor]) -> None:
    assert trace.timesteps == drawn["timesteps"].tolist()
    for row, step in enumerate(drawn["steps"].tolist()):
        close(trace.keys[step, :ROWS], drawn["keys"][row])
        close(trace.values[step, :ROWS], drawn["values"][row])


def test_sampler_noise_prediction(trace: Trace, drawn: dict[str, Tensor]) -> None:
    assert len(trace.eps) == 50
    for found, expected in zip(trace.eps, drawn["eps"], strict=True):
        close(found, expected)


def test_sampler_latents(trace: Trace, drawn: dict[str, Tensor]) -> None:
    """All 50 steps in one go. Today's DPM-Solver++ keeps its tables and its latents in float32, hence 1e-6."""
    assert len(trace.latents_out) == 50
    for found, expected in zip(trace.latents_out, drawn["latents_out"], strict=True):
        close(found, expected, 1e-6)
