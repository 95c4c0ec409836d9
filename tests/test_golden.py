"""The authors' own numbers: every part of the engine against tests/golden, in float64.

They come from the authors' public code on a tiny model whose weights `golden/recipe.py` makes, once with noise
prediction and once with velocity prediction. The tests feed the engine what the numbers were computed from; nothing of
the method is written here a second time.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
import torch
from golden import close, recipe
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from pmagic.bases import loading
from pmagic.bases.model_spec import ModelSpec
from pmagic.engine import (
    composing,
    mapper,
    prompts,
    randomness,
    recipes,
    rendering,
    subject,
    token_batch,
    training,
)
from pmagic.losses import tandem_equilibrium
from pmagic.methods import personamagic
from pmagic.persona import REFERENCE_BOUNDS, Persona

FACTS: dict[str, Any] = json.loads((golden.FOLDER / "facts.json").read_text())
SEED, PROMPT, WORD = FACTS["seed"], FACTS["prompt"], FACTS["word"]
STEPS = range(4)
PAIRS = ((0, 1), (2, 3))  # micro-steps of an optimizer step
LATENTS = (4, 8, 8)
MAPPER = mapper.MapperShape(tokens=4, text_width=768, image_width=512)


@pytest.fixture(scope="module", autouse=True)
def everything_in_float64() -> Iterator[None]:
    """diffusers computes the UNet's time features with Tensor.float(); the numbers were computed without rounding."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        yield


@dataclass(frozen=True)
class Numbers:
    """One set: the tiny base, its pictures, and the tensors of learning, of drawing and of the photo."""

    base: loading.Base
    folder: Path
    training: dict[str, Tensor]
    inference: dict[str, Tensor]
    photo: dict[str, Tensor]

    def picture(self, name: str) -> Image.Image:
        with Image.open(self.folder / name) as image:
            return image.copy()


@pytest.fixture(scope="module", params=["epsilon", "velocity"])
def numbers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Numbers:
    root = tmp_path_factory.mktemp(request.param)
    recipe.build(root, {"epsilon": "epsilon", "velocity": "v_prediction"}[request.param])
    spec = ModelSpec(name="golden", folder=root / "sd", repo=None, clip=root / "clip", size_gb=None, licence="")
    folder = golden.FOLDER / request.param
    files = [load_file(folder / f"{name}.safetensors") for name in ("training", "inference", "photo")]
    return Numbers(loading.load(spec, device="cpu", dtype="float64"), folder, *files)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return prompts.load_tokenizer(golden.FOLDER / "sd")


def mask() -> Image.Image:
    with Image.open(golden.FOLDER / "person_mask.png") as image:
        return image.copy()


def noise(name: str) -> Tensor:
    return torch.from_numpy(recipe.noise(SEED, name, LATENTS))


def sketch(values: Tensor) -> Tensor:
    return torch.from_numpy(recipe.sketch(values.detach().numpy()))


def test_the_recipe_makes_the_same_bits() -> None:
    for part, digest in FACTS["weights"].items():
        assert recipe.digest(recipe.weights(SEED, part)) == digest


# --- the photo


def test_photo(numbers: Numbers) -> None:
    person, base = numbers.picture("person.png"), numbers.base
    pixels = subject.photo_pixels(person, 64)
    close(pixels[0], numbers.photo["pixels"].double() / 127.5 - 1, 1e-15, "pixels")
    posterior = base.pipeline.vae.encode(pixels.to(torch.float32).double()).latent_dist  # the authors' are float32
    close(posterior.mean[0], numbers.photo["vae_mean"], name="mean of pixels rounded to float32")
    close(posterior.std[0], numbers.photo["vae_std"], name="std of pixels rounded to float32")
    encoded = subject.encode_photos(base, [person], [""], word=WORD, mask=mask())
    close(encoded.mean[0], numbers.photo["vae_mean"], 1e-6, "mean")
    close(encoded.std[0], numbers.photo["vae_std"], 1e-6, "std")
    close(encoded.mask[0, 0], numbers.photo["mask"], 1e-15, "mask")


@pytest.mark.parametrize("name", ["person", "wide"])
def test_clip_sees_the_whole_photo(numbers: Numbers, name: str) -> None:
    """Its resampling differs from the authors'; its geometry does not."""
    clip, photo = subject.observer(numbers.base), numbers.picture(f"{name}.png")
    seen: list[Tensor] = []
    patches = clip.model.vision_model.embeddings.patch_embedding
    hook = patches.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    clip.image_embedding([photo])
    hook.remove()
    close(seen[0][0, :, 4::8, 4::8].double(), numbers.photo[f"clip.{name}.pixels"], 0.05, "pixels")
    whole = Image.new("L", (min(photo.size),) * 2, 255)
    encoded = subject.encode_photos(numbers.base, [photo], [""], word=WORD, mask=whole)
    close(encoded.image_embedding[0], numbers.photo[f"clip.{name}.embedding"], 0.02, "embedding")


# --- words


def as_ids(placed: prompts.TokenizedPrompt) -> list[int]:
    """Tokens from start to end, the placeholders by the ids that the authors' tokenizer gave them."""
    first = min(FACTS["sentences"][0]["ids"][1:5])
    ids = [
        first + slot if slot >= 0 else token for token, slot in zip(placed.ids, placed.placeholder_index, strict=True)
    ]
    return ids[: placed.length + 2]


@pytest.mark.parametrize("sentence", FACTS["sentences"], ids=[each["text"][:20] for each in FACTS["sentences"]])
def test_sentences_are_tokenized(tokenizer: Any, sentence: dict[str, Any]) -> None:
    assert as_ids(prompts.check_prompt(tokenizer, sentence["text"], 4)) == sentence["ids"]


def test_training_templates_are_14_of_the_authors_27(tokenizer: Any) -> None:
    templates = recipes.settings_for("reference", {}).templates
    own = [as_ids(prompts.check_prompt(tokenizer, text, 4)) for text in templates]
    assert len({tuple(ids) for ids in own}) == 14
    assert len(FACTS["templates"]) == 27
    assert [ids for ids in own if ids not in FACTS["templates"]] == []


def test_words_around_the_name(tokenizer: Any, numbers: Numbers) -> None:
    placed = prompts.check_prompt(tokenizer, PROMPT, 4)
    ids = numbers.inference["prompt.ids"].tolist()
    assert as_ids(placed) == ids[: placed.length + 2]
    assert set(ids[placed.length + 2 :]) == {tokenizer.eos_token_id} == set(placed.ids[placed.length + 2 :])
    for text, name in ((PROMPT.format(WORD), "word"), (recipes.REFERENCE_NEGATIVE, "negative")):
        assert tokenizer(text, padding="max_length").input_ids == numbers.inference[f"{name}.ids"].tolist()


# --- settings


def test_settings() -> None:
    learn, render = recipes.settings_for("reference", {}), recipes.render_settings_for("reference", {})
    optimizer, sampler = FACTS["optimiser"], FACTS["sampler"]
    assert learn.learning_rate == pytest.approx(optimizer["learning_rate"])
    assert (learn.weight_decay, learn.epsilon) == (optimizer["weight_decay"], optimizer["epsilon"])
    assert list(learn.betas) == optimizer["betas"]
    assert learn.batch == FACTS["accumulation"] * FACTS["micro_batch"]
    assert learn.bounds is not None
    assert (learn.bounds.low, learn.bounds.high) == (FACTS["t_low"], FACTS["t_high"])
    assert (learn.residual_dropout, learn.tokens) == (FACTS["residual_dropped_below"], 4)
    assert (render.steps, render.guidance) == (sampler["steps"], sampler["guidance"])


def test_what_is_random_lies_within_the_facts() -> None:
    settings = recipes.settings_for("reference", {})
    draws = [randomness.sample_step(settings, step, 1, LATENTS, torch.float64) for step in range(400)]
    t = torch.cat([each.t for each in draws])
    low, high = FACTS["t_low"], FACTS["t_high"]
    assert low <= t.min() < low + 10 and high - 10 <= t.max() < high
    keep, keep_open = (torch.cat([getattr(each, name) for each in draws]) for name in ("keep", "keep_open"))
    for share in (keep, keep_open, (keep == keep_open).double()):  # independent of each other
        assert abs(float(share.mean()) - FACTS["residual_dropped_below"]) < 0.08


# --- learning


def initial_mapper(word: Tensor) -> mapper.Mapper:
    """The recipe's weights; those of the time features are the engine's own, in float64 from the start."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        learner = mapper.Mapper(MAPPER, word, REFERENCE_BOUNDS)
    finally:
        torch.set_default_dtype(usual)
    weights = {name: torch.from_numpy(values).double() for name, values in recipe.weights(SEED, "mapper").items()}
    del weights["time_input.weight"]
    missing, unexpected = learner.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["time_input.weight"], [])
    return learner


def test_anchors(numbers: Numbers) -> None:
    weight = initial_mapper(numbers.training["word_embedding"]).time_input.weight
    close(weight[[0, 1, 2, 100, 198, 199], :128], numbers.training["anchors.rows"], name="rows")
    close(sketch(weight), numbers.training["anchors.sketch"], name="sketch")


def test_word_embedding(numbers: Numbers) -> None:
    close(token_batch.word_embedding(numbers.base, WORD), numbers.training["word_embedding"], 0, "word_embedding")


def prepare_pair(numbers: Numbers, steps: Sequence[int]) -> tuple[training.TrainingContext, randomness.StepSample]:
    """Two micro-steps of the reference as one batch of two, and what is random in them."""
    given, seen = numbers.training, numbers.photo
    photo = subject.Subject(
        word=WORD,
        mean=seen["vae_mean"][None],
        std=seen["vae_std"][None],
        mask=seen["mask"][None, None],
        image_embedding=seen["embedding"][None],
        hashes=(),
    )
    placeholders = given["placeholder_ids"].tolist()
    main, open_prompts = (
        golden.token_batch(numbers.base, torch.stack([given[f"step{k}.{kind}.ids"] for k in steps]), placeholders)
        for kind in ("main", "open")
    )
    context = training.prepare_training(numbers.base, photo, recipes.settings_for("reference", {}))
    each = torch.arange(2)
    draw = randomness.StepSample(
        photo=torch.zeros(2, dtype=torch.long),
        t=torch.cat([given[f"step{k}.t"] for k in steps]),
        posterior=torch.stack([noise(f"step{k}.posterior") for k in steps]),
        noise=torch.stack([noise(f"step{k}.noise") for k in steps]),
        template=each,
        open_prompt=each,
        keep=torch.stack([given[f"step{k}.main.keep"] for k in steps]),
        keep_open=torch.stack([given[f"step{k}.open.keep"] for k in steps]),
    )
    return replace(context, templates=main, open_prompts=open_prompts), draw


@pytest.fixture(scope="module")
def learned(numbers: Numbers) -> dict[str, Tensor]:
    """Two optimizer steps; the engine's values by the names of the golden numbers."""
    learner = initial_mapper(numbers.training["word_embedding"])
    optimizer = None
    values: dict[str, Tensor] = {}
    for steps in PAIRS:
        context, draw = prepare_pair(numbers, steps)
        optimizer = optimizer or training.make_optimizer(learner, context.settings)
        values |= forward_values(numbers, context, learner, draw, steps)
        training.optimizer_step(training.make_train_step(context, learner), optimizer, draw)
        for name, weight in learner.named_parameters():
            for kind, tensor in (("grad", weight.grad), ("after", weight.detach())):
                corner = tensor[:2, :256] if tensor.ndim > 1 else tensor[:256]
                values |= with_sketch(f"step{steps[1]}.{kind}.{name}", tensor.clone(), corner.clone())
                values[f"step{steps[1]}.{kind}.{name}.norm"] = tensor.norm()
    return values


def with_sketch(name: str, whole: Tensor, part: Tensor) -> dict[str, Tensor]:
    return {name: part, f"{name}.sketch": sketch(whole)}


@torch.no_grad()
def forward_values(
    numbers: Numbers,
    context: training.TrainingContext,
    learner: mapper.Mapper,
    draw: randomness.StepSample,
    steps: Sequence[int],
) -> dict[str, Tensor]:
    """What one batch computes before the optimizer's step."""
    encoded: list[Any] = []  # of both prompts; the step's output has the training prompts' alone
    encode = training.encode

    def record(*args: Any, **more: Any) -> Any:
        encoded.append(encode(*args, **more))
        return encoded[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "encode", record)
        output = training.forward_step(context, learner, draw)
    loss = training.weighted_sum(context, training.loss_terms(context, output))
    share = tandem_equilibrium.shares(output.attention, output.open_placeholder_index, output.open_lengths)
    dynamic, residual = learner(draw.t, context.subject.image_embedding[draw.photo])
    (both,) = encoded
    values: dict[str, Tensor] = {}
    for row, k in enumerate(steps):
        for kind, keep, at in (("main", draw.keep, row), ("open", draw.keep_open, row + 2)):
            kept = residual[row] * keep[row]
            rows = numbers.training[f"step{k}.{kind}.rows"]
            keys, texts = both.condition.keys[at], both.condition.values[at]
            values |= with_sketch(f"step{k}.{kind}.dynamic", dynamic[row], dynamic[row, :, :128])
            values |= with_sketch(f"step{k}.{kind}.residual", kept, kept[:, :128])
            values |= with_sketch(f"step{k}.{kind}.keys", keys, keys[rows, :128])
            values |= with_sketch(f"step{k}.{kind}.values", texts, texts[rows, :128])
        assert torch.equal(output.keys[row], both.condition.keys[row])
        assert torch.equal(output.values[row], both.condition.values[row])
        attention = output.attention[row]
        values |= with_sketch(f"step{k}.open.attention", attention, attention)
        values |= {
            f"step{k}.latents": output.latents[row],
            f"step{k}.noisy_latents": output.noisy[row],
            f"step{k}.open.attention.mass": attention.sum(dim=1),
            f"step{k}.open.attention.last": attention[:, [5, 20, 76]],
            f"step{k}.open.length": output.open_lengths[row].double(),
            f"step{k}.te.placeholder": share[row],
            f"step{k}.te.strongest": 1 - share[row],
            f"step{k}.noise_hat": output.prediction[row],
            f"step{k}.loss": loss[row],
        }
    return values


def compare(learned: dict[str, Tensor], numbers: Numbers, *parts: str) -> None:
    names = [name for name in learned if name.split(".", 1)[1].startswith(parts) and name in numbers.training]
    assert len(names) >= 4
    for name in names:
        close(learned[name], numbers.training[name], name=name)


def test_every_number_is_compared(learned: dict[str, Tensor], numbers: Numbers) -> None:
    inputs = ("t", "main.ids", "open.ids", "main.rows", "open.rows", "main.keep", "open.keep", "te.positions")
    rest = {name for name in numbers.training if name.startswith("step")} - set(learned)
    assert rest == {f"step{k}.{name}" for k in STEPS for name in inputs}


def test_mapper(learned: dict[str, Tensor], numbers: Numbers) -> None:
    compare(learned, numbers, "main.dynamic", "main.residual", "open.dynamic", "open.residual")


def test_noising(learned: dict[str, Tensor], numbers: Numbers) -> None:
    compare(learned, numbers, "latents", "noisy_latents")


def test_text_conditioning(learned: dict[str, Tensor], numbers: Numbers) -> None:
    compare(learned, numbers, "main.keys", "main.values", "open.keys", "open.values")


def test_tandem_equilibrium(learned: dict[str, Tensor], numbers: Numbers) -> None:
    compare(learned, numbers, "open.length", "open.attention", "te.placeholder", "te.strongest")


def test_prediction_and_loss(learned: dict[str, Tensor], numbers: Numbers) -> None:
    compare(learned, numbers, "noise_hat", "loss")


def test_gradients(learned: dict[str, Tensor], numbers: Numbers) -> None:
    """Of a batch of two: the reference accumulates the halves of two single ones, which is the same mean."""
    compare(learned, numbers, "grad.")


def test_two_optimizer_steps(learned: dict[str, Tensor], numbers: Numbers) -> None:
    compare(learned, numbers, "after.")


# --- drawing


@pytest.fixture(scope="module")
def persona(numbers: Numbers) -> Persona:
    weights = recipe.weights(SEED, "mapper", stream="persona/")
    tensors = {f"learner.{name}": values.astype(np.float64) for name, values in weights.items()}
    tensors["image_embedding"] = numbers.photo["clip.person.embedding"].numpy()
    return Persona(
        method="personamagic",
        base="golden",
        fingerprint=numbers.base.fingerprint,
        word=WORD,
        bounds=REFERENCE_BOUNDS,
        tensors=tensors,
    )


@dataclass(frozen=True)
class Trace:
    """The 50 steps as the engine draws them."""

    timesteps: list[float]
    keys: Tensor  # (50, S, w)
    values: Tensor  # (50, S, w)
    eps: list[Tensor]  # after guidance, from the reference's latents of that step
    forced: list[Tensor]  # latents after each step, the UNet having been given the reference's latents
    free: list[Tensor]  # latents after each step, begun at the first latents alone


@pytest.fixture(scope="module")
def trace(numbers: Numbers, persona: Persona) -> Trace:
    settings = recipes.render_settings_for("reference", {})
    with personamagic.apply(numbers.base, [persona]) as (schedule,):
        script = rendering.encode_prompt(numbers.base, {"": schedule}, PROMPT, settings)
    first = noise("latents")[None]
    forced, eps, last = golden.sample(numbers.base, script, first, settings, numbers.inference["latents"])
    free, _, end = golden.sample(numbers.base, script, first, settings)
    timesteps = rendering.timesteps(numbers.base, settings)
    rows = torch.stack([script.rows[t] for t in timesteps])
    return Trace(timesteps, *rows.chunk(2, dim=-1), eps, [*forced[1:], last], [*free[1:], end])


def test_sampler_reads_the_conditions_of_the_stages(trace: Trace, numbers: Numbers) -> None:
    drawn = numbers.inference
    assert trace.timesteps == drawn["timesteps"].tolist()
    for name, rows in (("keys", trace.keys), ("values", trace.values)):
        for step in range(50):
            close(sketch(rows[step]), drawn[f"{name}.sketch"][step], name=f"{name} of step {step}")
        for row, step in enumerate(drawn["shown"].tolist()):
            close(rows[step, drawn["rows"], :128], drawn[name][row], name=f"{name} of step {step}")


def test_sampler_noise_prediction(trace: Trace, numbers: Numbers) -> None:
    for step, (eps, expected) in enumerate(zip(trace.eps, numbers.inference["eps"], strict=True)):
        close(eps, expected, name=f"eps of step {step}")


@pytest.mark.parametrize("kind", ["forced", "free"])
def test_sampler_latents(trace: Trace, numbers: Numbers, kind: str) -> None:
    """All 50, the last too. DPM-Solver++ keeps its tables and its latents in float32, hence 1e-6."""
    expected = numbers.inference["latents"]
    assert torch.equal(noise("latents"), expected[0])
    for step, (latents, each) in enumerate(zip(getattr(trace, kind), expected[1:], strict=True)):
        close(latents, each, 1e-6, f"latents after step {step}")


def test_edges_of_the_stages(numbers: Numbers, persona: Persona) -> None:
    """Timesteps that no sampler of 50 steps meets.

    At 800 itself the authors' drawing is dynamic although their learning never is; here it reads the plain word.
    """
    drawn = numbers.inference
    edges = drawn["edges"].tolist()
    with personamagic.apply(numbers.base, [persona]) as (schedule,), torch.no_grad():
        conditions = composing.encode_schedule(numbers.base, PROMPT, {"": schedule}, [float(t) for t in edges])
    for t in edges:
        row = edges.index(801 if t == 800 else t)
        close(sketch(conditions[t].keys[0]), drawn["edges.keys.sketch"][row], name=f"keys at {t}")
        close(sketch(conditions[t].values[0]), drawn["edges.values.sketch"][row], name=f"values at {t}")
    own, plain = (drawn["edges.keys.sketch"][edges.index(t)] for t in (800, 801))
    assert (own - plain).norm() > 0.01 * plain.norm()  # otherwise the above could not fail


def test_picture(numbers: Numbers, persona: Persona, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way, from the prompt to the picture, with the reference's first latents for those of a seed."""
    monkeypatch.setattr(rendering, "initial_noise", lambda *args: noise("latents")[None])
    settings = recipes.render_settings_for("reference", {})
    (picture,) = rendering.render(numbers.base, persona, PROMPT, [0], settings)
    levels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).double()
    assert (levels - numbers.inference["picture"].double()).abs().max() <= 1
    close(levels, numbers.inference["picture"], 1e-2, "picture")
