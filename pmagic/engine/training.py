"""Training: the one loop that every method shares. Only the learner's weights change, never the base's.

A learner is an nn.Module called with timesteps (B,) and image embeddings (B, e). It returns the dynamic tokens
(B, n, w) that stand for the name, and the residual (B, n, w) of their values, or None if the values equal the keys. It
may also have `apply_to(unet)`, a context manager in which the UNet uses the weights being trained, and
`groups(settings)`, the optimizer's parameter groups, each with its learning rate.
"""

# B batch . S text positions . n placeholder tokens . w text width . e image embedding width . C, h, w of the latents

import math
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn

from pmagic import shelf
from pmagic.bases.loading import Base
from pmagic.engine import checkpoint, compiling, face_embedding, graphs, memory, randomness, schedulers, token_batch
from pmagic.engine.conditioning import Encoded, encode, packed_kv, unet_in_compute_dtype
from pmagic.engine.face_embedding import FaceEmbedder
from pmagic.engine.recipes import LearnSettings
from pmagic.engine.subject import Subject
from pmagic.engine.token_batch import TokenBatch
from pmagic.errors import NumericFailure, UsageError
from pmagic.losses import StepOutput
from pmagic.persona import Persona

SAVE_EVERY = 50  # steps between two checkpoints
RUNNING = 100  # steps in the window of the reported running means


@dataclass(frozen=True)
class StepReport:
    """One finished optimizer step, 1 <= step <= total. loss: the weighted sum; losses: the unweighted terms."""

    step: int
    total: int
    loss: float
    losses: Mapping[str, float]
    persona: Callable[[], Persona] | None = None  # of the current weights; set by a method, not the loop


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
    """Everything that stays the same from step to step."""

    base: Base
    subject: Subject
    settings: LearnSettings
    templates: TokenBatch
    open_prompts: TokenBatch
    schedule: schedulers.NoiseSchedule
    losses: Mapping[str, ModuleType]
    face_embedder: FaceEmbedder | None  # None if no loss reads the face
    unet: Callable[..., tuple[Tensor]]  # the base's UNet, or its compiled form

    @property
    def reads_open_prompt(self) -> bool:
        return any(loss.READS_OPEN_PROMPT for loss in self.losses.values())


def prepare_training(base: Base, subject: Subject, settings: LearnSettings) -> TrainingContext:
    """Tokenize the prompts, open the models and look up the losses, once for all steps.

    Raises NotFound for an unknown loss, UsageError for a bad prompt and, if a loss reads faces, the errors of
    face_embedding.open_face_embedder.
    """
    if settings.bounds is None:
        raise ValueError("the stages are found by the probe, before anything is trained in them")
    losses = {name: shelf.take("losses", name) for name, weight in settings.losses.items() if weight}
    return TrainingContext(
        base=base,
        subject=subject,
        settings=settings,
        templates=token_batch.tokens_with_name(base, settings.templates, settings.tokens),
        open_prompts=token_batch.tokens_with_name(base, settings.open_prompts, settings.tokens),
        schedule=schedulers.noise_schedule(base.pipeline.scheduler.config),
        losses=losses,
        face_embedder=face_embedding.open_face_embedder(base, subject)
        if any(loss.READS_FACE for loss in losses.values())
        else None,
        unet=compiling.compile_unet(base.pipeline.unet) if base.compiled else base.pipeline.unet,
    )


def sample_of_step(subject: Subject, settings: LearnSettings, step: int) -> randomness.StepSample:
    """The random values of optimizer step `step` when learning `subject`; 0 is the first step."""
    return randomness.sample_step(settings, step, len(subject.mean), subject.mean.shape[1:], subject.mean.dtype)


def forward_step(context: TrainingContext, learner: nn.Module, draw: randomness.StepSample) -> StepOutput:
    """One forward pass: noise the latents, encode the prompts, call the UNet. Differentiable in the learner."""
    base, subject = context.base, context.subject
    draw = draw.to(base.device)
    scale = base.pipeline.vae.config.scaling_factor
    latents = scale * (subject.mean[draw.photo] + subject.std[draw.photo] * draw.posterior)  # (B, C, h, w)
    noisy = context.schedule.add_noise(latents, draw.noise, draw.t)
    velocity = context.schedule.config.prediction_type == "v_prediction"
    target = context.schedule.get_velocity(latents, draw.noise, draw.t) if velocity else draw.noise
    open_prompts = context.open_prompts.select(draw.open_prompt) if context.reads_open_prompt else None
    encoded = _encode_prompts(context, learner, draw, open_prompts)
    batch = len(draw.t)
    unet = base.pipeline.unet
    with packed_kv(unet), unet_in_compute_dtype(base):
        packed = encoded.condition.pack()[:batch].to(base.weights_dtype)
        (prediction,) = context.unet(
            noisy.to(base.weights_dtype), draw.t, encoder_hidden_states=packed, return_dict=False
        )
    return StepOutput(
        t=draw.t,
        latents=latents,
        noisy=noisy,
        prediction=prediction.to(target.dtype),
        target=target,
        mask=subject.mask[draw.photo],
        keys=encoded.condition.keys[:batch],
        values=encoded.condition.values[:batch],
        attention=None if encoded.attention is None else encoded.attention[batch:],
        open_placeholder_index=None if open_prompts is None else open_prompts.placeholder_index,
        open_lengths=None if open_prompts is None else open_prompts.lengths,
        signal=context.schedule.alphas_cumprod.to(base.device)[draw.t],
        velocity=velocity,
        identity_distance=None
        if context.face_embedder is None
        else partial(context.face_embedder.identity_distance, photo=draw.photo),
    )


def _encode_prompts(
    context: TrainingContext, learner: nn.Module, draw: randomness.StepSample, open_prompts: TokenBatch | None
) -> Encoded:
    """Encode the training prompts and, in the rows after them, the open prompts, in one pass of the text encoder."""
    said = context.templates.select(draw.template)
    dynamic, residual = learner(draw.t, context.subject.image_embedding[draw.photo])
    ids, placeholder_index, keep = said.ids, said.placeholder_index, draw.keep
    if open_prompts is not None:  # the same timesteps and photos, another prompt with its own dropout
        ids, placeholder_index = (
            torch.cat([ids, open_prompts.ids]),
            torch.cat([placeholder_index, open_prompts.placeholder_index]),
        )
        dynamic, keep = torch.cat([dynamic, dynamic]), torch.cat([keep, draw.keep_open])
        residual = None if residual is None else torch.cat([residual, residual])
    if residual is not None:
        # A dropped residual stays in the graph as zeros: its gradients are 0 rather than None, so the optimizer still
        # updates with its momentum.
        residual = residual * keep[:, None, None]
    text_encoder = context.base.pipeline.text_encoder
    return encode(text_encoder, ids, placeholder_index, dynamic, residual, with_attention=open_prompts is not None)


def loss_terms(context: TrainingContext, output: StepOutput) -> dict[str, Tensor]:
    """Each loss by name, per sample and unweighted: (B,)."""
    return {name: loss.loss(output) for name, loss in context.losses.items()}


def weighted_sum(context: TrainingContext, terms: Mapping[str, Tensor]) -> Tensor:
    """The sum of the terms with the recipe's weights, per sample: (B,)."""
    return torch.stack([context.settings.losses[name] * value for name, value in terms.items()]).sum(dim=0)


def make_optimizer(learner: nn.Module, settings: LearnSettings) -> torch.optim.AdamW:
    groups: Callable[[LearnSettings], list[dict[str, Any]]] | None = getattr(learner, "groups", None)
    return torch.optim.AdamW(
        learner.parameters() if groups is None else groups(settings),
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        fused=True,
    )


# Makes a method's untrained learner for a subject.
MakeLearner = Callable[[Base, Subject, LearnSettings], nn.Module]
# Returns the loss of a sample and its terms, each (), and leaves their gradients in the learner.
Losses = Callable[[randomness.StepSample], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class TrainStep:
    """A learner with the function that computes its losses and gradients."""

    context: TrainingContext
    learner: nn.Module
    losses: Losses


def make_train_step(context: TrainingContext, learner: nn.Module) -> TrainStep:
    """The train step, captured as a CUDA graph on a GPU.

    With gradient checkpointing nothing is captured: recomputed blocks cannot be part of a graph.
    Raises UsageError for a compiled UNet with a method that trains its weights.
    """
    losses, base = make_losses(context, learner), context.base
    if base.compiled and hasattr(learner, "apply_to"):
        raise UsageError(
            "a compiled UNet is compiled anew for each set of weights, so --compile does not go with this method",
            "leave out --compile",
        )
    if base.device.type == "cuda" and not base.pipeline.unet.is_gradient_checkpointing:
        losses = graphs.cuda_graphed(losses, base.device)
    return TrainStep(context, learner, losses)


def make_losses(context: TrainingContext, learner: nn.Module) -> Losses:
    """One forward and backward pass, kernel by kernel; earlier gradients are cleared first."""

    def losses(draw: randomness.StepSample) -> tuple[Tensor, dict[str, Tensor]]:
        for weight in learner.parameters():
            weight.grad = None
        apply_to = getattr(learner, "apply_to", nullcontext)
        # The weights stay until the backward pass is done: checkpointed blocks are recomputed with them.
        with context.base.tf32(), apply_to(context.base.pipeline.unet):
            values = loss_terms(context, forward_step(context, learner, draw))
            loss = weighted_sum(context, values).mean()
            loss.backward()
        return loss.detach(), {name: value.detach().mean() for name, value in values.items()}

    return losses


def optimizer_step(
    train_step: TrainStep, optimizer: torch.optim.Optimizer, draw: randomness.StepSample
) -> tuple[float, dict[str, float]]:
    """Take one optimizer step; returns the loss and its terms before it.

    Raises NumericFailure, with the weights unchanged, if the loss or its gradient is not finite.
    """
    loss, values = train_step.losses(draw)
    slope = torch.nn.utils.get_total_norm(_gradients(train_step.learner))
    names = list(values)
    told = torch.stack([loss, slope, *(values[name] for name in names)]).tolist()  # synchronizes with the GPU only once
    if not math.isfinite(told[0] + told[1]):
        raise NumericFailure(
            f"the loss became {told[0]} and its gradient {told[1]}",
            f"learn with a learning rate below {train_step.context.settings.learning_rate:g}",
        )
    clip = train_step.context.settings.clip
    if told[1] > clip:
        torch.nn.utils.clip_grads_with_norm_(train_step.learner.parameters(), clip, slope)
    optimizer.step()
    return told[0], dict(zip(names, told[2:], strict=True))


def seconds_per_step(
    base: Base, subject: Subject, settings: LearnSettings, make_learner: MakeLearner, *, measured: float = 0.0
) -> float:
    """The median duration of a step on this machine, with a learner that is discarded. The first step is a warm-up.

    measured: seconds of steps to measure after the warm-up; at least one step is measured.
    """
    taught = make_train_step(prepare_training(base, subject, settings), make_learner(base, subject, settings))
    times: list[float] = []
    with memory.oom_as_problem("learn", "learn with a smaller --batch"):
        while len(times) < 2 or sum(times[1:]) < measured:
            draw = sample_of_step(subject, settings, len(times))
            start = time.monotonic()
            taught.losses(draw)[0].item()  # waits for the GPU
            times.append(time.monotonic() - start)
    return statistics.median(times[1:])


def first_step_gradient(base: Base, subject: Subject, settings: LearnSettings, make_learner: MakeLearner) -> Tensor:
    """The gradient of the first step's loss, flattened over all weights of a learner that is discarded: (N,)."""
    learner = make_learner(base, subject, settings)
    make_losses(prepare_training(base, subject, settings), learner)(sample_of_step(subject, settings, 0))
    return torch.cat([each.flatten() for each in _gradients(learner)])


def _gradients(learner: nn.Module) -> list[Tensor]:
    """The gradient of each weight; after a backward pass every weight has one."""
    return [cast(Tensor, weight.grad) for weight in learner.parameters()]


def train(
    context: TrainingContext,
    learner: nn.Module,
    on_step: Callable[[StepReport], None] = lambda report: None,
    saved: Path | None = None,
) -> dict[str, float]:
    """Train `learner` in place for the settings' iterations; returns the running mean of each loss term.

    saved: a checkpoint file, written every 50 steps and whenever `on_step` raises, which is how a user stops training
    at the end of a step. If the file exists, training resumes from it bit for bit.
    Raises NumericFailure, OutOfMemory, StorageFailed, Incompatible or BundleDamaged (see checkpoint).
    """
    settings = context.settings
    optimizer = make_optimizer(learner, settings)
    taught = make_train_step(context, learner)
    keeper = None if saved is None else checkpoint.Checkpoint(saved, run_id(context, learner), observed_inputs(context))
    done, running = keeper.restore(learner, optimizer) if keeper is not None else (0, {})
    with memory.oom_as_problem("learn", "learn with a smaller --batch"):
        for step in range(done, settings.iterations):
            loss, values = optimizer_step(taught, optimizer, sample_of_step(context.subject, settings, step))
            done = step + 1
            running = _update_mean(running, values, done)
            if keeper is not None and (done % SAVE_EVERY == 0 or done == settings.iterations):
                keeper.save(done, running, learner, optimizer)
            try:
                on_step(StepReport(done, settings.iterations, loss, values))
            except BaseException:
                if keeper is not None:
                    keeper.save(done, running, learner, optimizer)
                raise
    return {name: running[name] for name in context.losses}  # in the same order after resuming, too


def run_id(context: TrainingContext, learner: nn.Module) -> str:
    """The identity of a run, apart from `observed_inputs`: a checkpoint resumes only the run that wrote it."""
    subject, base = context.subject, context.base
    return checkpoint.digest(
        facts=[
            type(learner).__name__,
            context.settings.as_table(),
            [
                base.fingerprint,
                str(base.device.type),
                str(base.learner_dtype),
                str(base.compute_dtype),
                base.compiled,
                torch.__version__,
            ],
            [subject.word, *subject.hashes],
        ],
        tensors={},
    )


def observed_inputs(context: TrainingContext) -> dict[str, Tensor]:
    """What vision models found in the photos and training depends on."""
    subject, faces = context.subject, context.face_embedder
    seen = {"mask": subject.mask, "image_embedding": subject.image_embedding}
    return seen if faces is None else {**seen, "landmarks": faces.landmarks, "likeness": faces.likeness}


def _update_mean(means: Mapping[str, float], values: Mapping[str, float], done: int) -> dict[str, float]:
    """Exact means for the first `RUNNING` steps, exponential moving averages after them."""
    share = 1 / min(done, RUNNING)
    return {name: means.get(name, 0.0) + share * (value - means.get(name, 0.0)) for name, value in values.items()}
