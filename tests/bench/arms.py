"""Arms: three ways to do the same work.

"reference" works as the authors' code does, written from the description of its costs: one sample at a time, every
photo encoded again at every micro-step, each prompt encoded separately, and attention materialised. It draws one
picture at a time, with one text encoding per timestep and two UNet calls per step. "stock" is what diffusers offers:
its text pipeline with four pictures in one call, and a textual-inversion step on a batch of two.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from pmagic.bases.loading import Base
from pmagic.engine import (
    face_embedding,
    mapper,
    prompts,
    randomness,
    recipes,
    rendering,
    schedulers,
    subject,
    token_batch,
    training,
)
from pmagic.engine.conditioning import Condition, encode, packed_kv
from pmagic.engine.recipes import LearnSettings, RenderSettings
from pmagic.engine.stages import dynamic_sources
from pmagic.engine.subject import Subject
from pmagic.losses import StepOutput
from pmagic.methods import persona_of, personamagic
from pmagic.persona import REFERENCE_BOUNDS, Persona

PROMPT = "a photo of {} as a cowboy"
PICTURES = 4


@dataclass(frozen=True)
class Arm:
    """run: the timed work. within: the setup around it, not timed. counted: used for FLOPs if `run` hides its work."""

    run: Callable[[], Any]
    within: Callable[[], AbstractContextManager[None]] = nullcontext
    counted: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Bench:
    """The inputs that all arms share."""

    base: Base
    subject: Subject
    photo: Image.Image
    settings: LearnSettings
    drawing: RenderSettings

    def learner(self) -> nn.Module:
        word = token_batch.word_embedding(self.base, self.subject.word)
        return mapper.fresh(word, self.subject.image_embedding, self.settings)

    def draw(self, step: int) -> randomness.StepSample:
        return training.sample_of_step(self.subject, self.settings, step)

    def persona(self) -> Persona:
        return persona_of("personamagic", self.base, self.subject, self.settings, self.learner(), {})


def bench(base: Base, seen: Subject, photo: Image.Image, steps: int, recipe: str = "reference") -> Bench:
    """recipe: of learning, in the reference's stages."""
    drawing = replace(recipes.render_settings_for("reference", base.spec.defaults), steps=steps)
    return Bench(base, seen, photo, _settings(base, recipe), drawing)


def _settings(base: Base, recipe: str) -> LearnSettings:
    return replace(recipes.settings_for(recipe, base.spec.defaults), bounds=REFERENCE_BOUNDS)


def learning(bench: Bench) -> dict[str, Arm]:
    """One optimizer step of two samples. Our arm and the reference return their gradients, which must agree."""
    ours = _ours(bench)
    fused = Arm(ours.run, partial(attending, bench.base, AttnProcessor2_0()))  # as it always is on a GPU
    on_gpu = bench.base.device.type == "cuda"
    return {
        "ours": ours,
        **({"ours, kernel by kernel": Arm(ours.counted)} if on_gpu else {"ours, attention fused": fused}),
        "reference": _micro_steps(bench),
        "stock": _textual_inversion(bench),
    }


def drawing(bench: Bench) -> dict[str, Arm]:
    """Four pictures; our arm draws them at once, as the default does, and must agree with the reference."""
    persona, seeds = bench.persona(), range(PICTURES)
    pipeline = stock_pipeline(bench.base, bench.drawing)

    def ours(batch: int) -> list[Image.Image]:
        return rendering.render(bench.base, persona, PROMPT, seeds, replace(bench.drawing, batch=batch))

    def stock() -> list[Image.Image]:
        return pipeline(
            prompts.substitute_names(PROMPT, {"": bench.subject.word}),
            negative_prompt=bench.drawing.negative or None,
            num_images_per_prompt=PICTURES,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            num_inference_steps=bench.drawing.steps,
            guidance_scale=bench.drawing.guidance,
        ).images

    return {
        "ours": Arm(partial(ours, PICTURES)),
        "ours, one by one": Arm(partial(ours, 1)),
        "reference": _one_by_one(bench, persona),
        "stock": Arm(stock),
    }


def jobs(bench: Bench, iterations: int, faces: Sequence[Subject]) -> dict[str, Arm]:
    """Learning by each recipe (they differ in the identity loss) in the reference's stages, and drawing four pictures.

    faces: the subjects that `paper` learns, each labelled by the share of the latents' side that its face takes.
    """
    base = bench.base
    cells = base.size // base.pipeline.vae_scale_factor

    def learn(recipe: str, whom: Subject) -> Arm:
        settings = replace(_settings(base, recipe), iterations=iterations)
        return Arm(partial(personamagic.learn, base, whom, settings))

    found = {"learn, reference": learn("reference", bench.subject)}
    for face in faces:
        _, side = face_embedding.crops(base, face.landmarks)
        found[f"learn, paper, a face of {side} / {cells} cells"] = learn("paper", face)
    found["render, 4 pictures"] = drawing(bench)["ours"]
    found["render, 4 pictures, --exact"] = drawing(bench)["ours, one by one"]
    return found


def stock_pipeline(base: Base, settings: RenderSettings):
    from diffusers import StableDiffusionPipeline

    scheduler = schedulers.make(settings.scheduler, base.pipeline.scheduler.config)
    parts = {**base.pipeline.components, "scheduler": scheduler}
    pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@contextmanager
def attending(base: Base, processor: object) -> Iterator[None]:
    """Compute every attention of the UNet with `processor` inside this context."""
    unet = base.pipeline.unet
    before = dict(unet.attn_processors)
    unet.set_attn_processor(processor)
    try:
        yield
    finally:
        unet.set_attn_processor(before)


@contextmanager
def materialised(base: Base) -> Iterator[None]:
    """Disable fused attention in text encoder and UNet inside this context."""
    base.pipeline.text_encoder.set_attn_implementation("eager")
    try:
        with attending(base, AttnProcessor()):
            yield
    finally:
        base.pipeline.text_encoder.set_attn_implementation("sdpa")


def _ours(bench: Bench) -> Arm:
    """Our training step. On a GPU it runs as a CUDA graph, so its FLOPs are counted on the plain losses."""
    context = training.prepare_training(bench.base, bench.subject, bench.settings)
    learner, step = bench.learner(), iter(range(10**9))
    train_step = training.make_train_step(context, learner)
    plain = replace(train_step, losses=training.make_losses(context, learner))
    optimizer = training.make_optimizer(learner, bench.settings)

    def arm(train_step: training.TrainStep) -> list[Tensor]:
        training.optimizer_step(train_step, optimizer, bench.draw(next(step)))
        return [weight.grad for weight in learner.parameters()]

    return Arm(partial(arm, train_step), counted=partial(arm, plain))


def _micro_steps(bench: Bench) -> Arm:
    base, settings = bench.base, bench.settings
    pipeline = base.pipeline
    learner, step = bench.learner(), iter(range(10**9))
    optimizer = torch.optim.AdamW(
        learner.parameters(), settings.learning_rate, settings.betas, settings.epsilon, settings.weight_decay
    )
    context = training.prepare_training(base, bench.subject, settings)  # used only for its schedule and its losses

    def micro_step(draw: randomness.StepSample) -> None:
        pixels = subject.photo_pixels(bench.photo, base.size).to(base.device, pipeline.vae.dtype)
        with torch.no_grad():
            posterior = pipeline.vae.encode(pixels).latent_dist
        latents = pipeline.vae.config.scaling_factor * (posterior.mean + posterior.std * draw.posterior)
        noisy = context.schedule.add_noise(latents, draw.noise, draw.t)
        seen = subject.observer(base).image_embedding([bench.photo])
        texts = settings.templates[int(draw.template)], settings.open_prompts[int(draw.open_prompt)]
        said, heard = (token_batch.tokens_with_name(base, [text], settings.tokens) for text in texts)
        dynamic, residual = learner(draw.t, seen)
        main = encode(
            pipeline.text_encoder, said.ids, said.placeholder_index, dynamic, residual * draw.keep[:, None, None]
        )
        dynamic, residual = learner(draw.t, seen)
        spoken = residual * draw.keep_open[:, None, None]
        free = encode(pipeline.text_encoder, heard.ids, heard.placeholder_index, dynamic, spoken, with_attention=True)
        with packed_kv(pipeline.unet):
            packed = main.condition.pack()
            (prediction,) = pipeline.unet(noisy, draw.t, encoder_hidden_states=packed, return_dict=False)
        output = StepOutput(
            t=draw.t, latents=latents, noisy=noisy, prediction=prediction, target=draw.noise, mask=bench.subject.mask,
            keys=main.condition.keys, values=main.condition.values, attention=free.attention,
            open_placeholder_index=heard.placeholder_index, open_lengths=heard.lengths,
        )  # fmt: skip
        (training.weighted_sum(context, training.loss_terms(context, output)).mean() / settings.batch).backward()

    def arm() -> list[Tensor]:
        whole = bench.draw(next(step)).to(base.device)
        optimizer.zero_grad(set_to_none=True)
        for k in range(settings.batch):
            micro_step(
                randomness.StepSample(**{each.name: getattr(whole, each.name)[k : k + 1] for each in fields(whole)})
            )
        torch.nn.utils.get_total_norm([weight.grad for weight in learner.parameters()]).item()
        optimizer.step()
        return [weight.grad for weight in learner.parameters()]

    return Arm(arm, partial(materialised, base))


def _textual_inversion(bench: Bench) -> Arm:
    """The usual step: the whole embedding table has a gradient, and all its rows but one are restored."""
    base = bench.base
    pipeline = base.pipeline
    table = pipeline.text_encoder.get_input_embeddings().weight
    step, token = iter(range(10**9)), prompts.check_word(pipeline.tokenizer, bench.subject.word)
    text = prompts.substitute_names(bench.settings.templates[0], {"": bench.subject.word})
    ids = pipeline.tokenizer(
        [text] * bench.settings.batch, padding="max_length", max_length=pipeline.tokenizer.model_max_length,
        truncation=True, return_tensors="pt",
    ).input_ids.to(base.device)  # fmt: skip
    schedule = training.prepare_training(base, bench.subject, bench.settings).schedule
    optimizer = torch.optim.AdamW([table], lr=5e-4)
    others = torch.arange(len(table), device=base.device) != token

    def arm() -> None:
        draw = bench.draw(next(step)).to(base.device)
        before = table.detach().clone()
        pixels = subject.photo_pixels(bench.photo, base.size).to(base.device, pipeline.vae.dtype)
        with torch.no_grad():
            posterior = pipeline.vae.encode(pixels.expand(len(ids), -1, -1, -1)).latent_dist
        latents = pipeline.vae.config.scaling_factor * (posterior.mean + posterior.std * draw.posterior)
        noisy = schedule.add_noise(latents, draw.noise, draw.t)
        table.requires_grad_(True)
        said = pipeline.text_encoder(ids).last_hidden_state
        (prediction,) = pipeline.unet(noisy, draw.t, encoder_hidden_states=said, return_dict=False)
        F.mse_loss(prediction, draw.noise).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            table[others] = before[others]
            table[token] = before[token]  # the other arms use this base too, so it is restored
        table.requires_grad_(False)

    return Arm(arm)


def _one_by_one(bench: Bench, persona: Persona) -> Arm:
    base, settings = bench.base, bench.drawing
    pipeline = base.pipeline

    learner, seen = personamagic.mapper_of(base, persona)

    def spoken_at(t: float | None) -> Condition:
        if t is None:
            return token_batch.encode_plain(base, prompts.substitute_names(PROMPT, {"": persona.word}))
        said = token_batch.tokens_with_name(base, [PROMPT], learner.shape.tokens)
        dynamic, residual = learner(torch.tensor([t], device=base.device, dtype=base.learner_dtype), seen)
        return encode(pipeline.text_encoder, said.ids, said.placeholder_index, dynamic, residual).condition

    @torch.no_grad()
    def picture(seed: int) -> Image.Image:
        scheduler = schedulers.make(settings.scheduler, pipeline.scheduler.config)
        scheduler.set_timesteps(settings.steps, device=base.device)
        latents = rendering.initial_noise(base, [seed], base.size, base.size) * scheduler.init_noise_sigma
        times = [float(t) for t in scheduler.timesteps]
        with packed_kv(pipeline.unet):
            negative = token_batch.encode_plain(base, settings.negative).pack()
            for t, source in zip(scheduler.timesteps, dynamic_sources(times, persona.bounds), strict=True):
                condition = spoken_at(source)
                given = scheduler.scale_model_input(latents, t)
                without, with_prompt = (
                    pipeline.unet(given, t, encoder_hidden_states=each, return_dict=False)[0]
                    for each in (negative, condition.pack())
                )
                guided = without + settings.guidance * (with_prompt - without)
                latents = scheduler.step(guided, t, latents, return_dict=False)[0]
            pixels = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor, return_dict=False)[0]
        return pipeline.image_processor.postprocess(pixels, output_type="pil", do_denormalize=[True])[0]

    def arm() -> list[Image.Image]:
        return [picture(seed) for seed in range(PICTURES)]

    return Arm(arm, partial(materialised, base))
