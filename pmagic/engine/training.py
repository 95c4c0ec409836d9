"""Training: the one loop that every method shares. Only the learner's weights change, never the base's.

A learner is an nn.Module called with timesteps (B,) and image embeddings (B, e); it answers with the dynamic tokens
(B, n, w) that stand for the name and the residual (B, n, w) of their values, or None where values are keys. It may
also have `worn_by(unet)`, a context manager in which the UNet has the weights that are trained, and `groups(settings)`,
parameters with a learning rate each.
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
RUNNING = 100  # steps over which the reported means run


@dataclass(frozen=True)
class StepReport:
    """One optimiser step done, 1 <= step <= total. loss: its weighted sum; losses: the terms, not weighted."""

    step: int
    total: int
    loss: float
    losses: Mapping[str, float]
    persona: Callable[[], Persona] | None = None  # what is learned so far; set by a method, not by the loop


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
    """All that stays the same from step to step."""

    base: Base
    subject: Subject
    settings: LearnSettings
    templates: TokenBatch
    open_prompts: TokenBatch
    schedule: schedulers.NoiseSchedule
    losses: Mapping[str, ModuleType]
    face_embedder: FaceEmbedder | None  # where no loss reads the face
    unet: Callable[..., tuple[Tensor]]  # the base's, as the steps ask it

    @property
    def reads_open_prompt(self) -> bool:
        return any(loss.READS_OPEN_PROMPT for loss in self.losses.values())


def prepare_training(base: Base, subject: Subject, settings: LearnSettings) -> TrainingContext:
    """Everything tokenised, opened and looked up once.

    Raises NotFound for an unknown loss, UsageError for a bad prompt, and as face_embedding.open_face_embedder where a
    loss reads faces.
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
    """What chance decides in optimiser step `step` of learning `subject`; 0 is the first."""
    return randomness.sample_step(settings, step, len(subject.mean), subject.mean.shape[1:], subject.mean.dtype)


def forward_step(context: TrainingContext, learner: nn.Module, draw: randomness.StepSample) -> StepOutput:
    """One forward pass: noise the latents, encode the prompts, ask the UNet. Differentiable in the learner."""
    base, subject = context.base, context.subject
    draw = draw.to(base.device)
    scale = base.pipeline.vae.config.scaling_factor
    latents = scale * (subject.mean[draw.photo] + subject.std[draw.photo] * draw.posterior)  # (B, C, h, w)
    noisy = context.schedule.add_noise(latents, draw.noise, draw.t)
    velocity = context.schedule.config.prediction_type == "v_prediction"
    target = context.schedule.get_velocity(latents, draw.noise, draw.t) if velocity else draw.noise
    open_prompts = context.open_prompts.chosen(draw.open_prompt) if context.reads_open_prompt else None
    encoded = _encode_prompts(context, learner, draw, open_prompts)
    batch = len(draw.t)
    unet = base.pipeline.unet
    with packed_kv(unet), unet_in_compute_dtype(base):
        packed = encoded.condition.packed()[:batch].to(base.weights)
        (prediction,) = context.unet(noisy.to(base.weights), draw.t, encoder_hidden_states=packed, return_dict=False)
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
        open_slots=None if open_prompts is None else open_prompts.slots,
        open_lengths=None if open_prompts is None else open_prompts.lengths,
        signal=context.schedule.alphas_cumprod.to(base.device)[draw.t],
        velocity=velocity,
        apart=None if context.face_embedder is None else partial(context.face_embedder.apart, photo=draw.photo),
    )


def _encode_prompts(
    context: TrainingContext, learner: nn.Module, draw: randomness.StepSample, open_prompts: TokenBatch | None
) -> Encoded:
    """The training prompts and, below them, the open prompts, in one pass of learner and text encoder."""
    said = context.templates.chosen(draw.template)
    dynamic, residual = learner(draw.t, context.subject.image_embedding[draw.photo])
    ids, slots, keep = said.ids, said.slots, draw.keep
    if open_prompts is not None:  # the same timesteps and photo, another sentence and its own dropout
        ids, slots = torch.cat([ids, open_prompts.ids]), torch.cat([slots, open_prompts.slots])
        dynamic, keep = torch.cat([dynamic, dynamic]), torch.cat([keep, draw.keep_open])
        residual = None if residual is None else torch.cat([residual, residual])
    if residual is not None:
        # A dropped residual stays in the graph as zeros: its gradients are 0, not absent, and the optimiser coasts.
        residual = residual * keep[:, None, None]
    text_encoder = context.base.pipeline.text_encoder
    return encode(text_encoder, ids, slots, dynamic, residual, with_attention=open_prompts is not None)


def loss_terms(context: TrainingContext, output: StepOutput) -> dict[str, Tensor]:
    """Each loss by name, per sample, not weighted: (B,)."""
    return {name: loss.loss(output) for name, loss in context.losses.items()}


def weighted_sum(context: TrainingContext, terms: Mapping[str, Tensor]) -> Tensor:
    """The recipe's sum of the terms, per sample: (B,)."""
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


# A method's untrained learner of a subject.
MakeLearner = Callable[[Base, Subject, LearnSettings], nn.Module]
# A draw's loss and its terms, each (); their gradients are left in the learner.
Losses = Callable[[randomness.StepSample], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class TrainStep:
    """What one learner is taught."""

    context: TrainingContext
    learner: nn.Module
    losses: Losses


def make_train_step(context: TrainingContext, learner: nn.Module) -> TrainStep:
    """Recorded as a CUDA graph on a GPU, but where memory is saved: what is computed again cannot be recorded."""
    losses, base = make_losses(context, learner), context.base
    if base.compiled and hasattr(learner, "worn_by"):
        raise UsageError(
            "a compiled UNet is compiled anew for each set of weights, so --compile does not go with this method",
            "leave out --compile",
        )
    if base.device.type == "cuda" and not base.pipeline.unet.is_gradient_checkpointing:
        losses = graphs.cuda_graphed(losses, base.device)
    return TrainStep(context, learner, losses)


def make_losses(context: TrainingContext, learner: nn.Module) -> Losses:
    """One pass there and back, kernel by kernel; gradients of an earlier one are forgotten."""

    def losses(draw: randomness.StepSample) -> tuple[Tensor, dict[str, Tensor]]:
        for weight in learner.parameters():
            weight.grad = None
        worn_by = getattr(learner, "worn_by", nullcontext)
        # Worn until the backward pass is done: what is computed again there must find the same weights.
        with context.base.tf32(), worn_by(context.base.pipeline.unet):
            values = loss_terms(context, forward_step(context, learner, draw))
            loss = weighted_sum(context, values).mean()
            loss.backward()
        return loss.detach(), {name: value.detach().mean() for name, value in values.items()}

    return losses


def optimizer_step(
    train_step: TrainStep, optimizer: torch.optim.Optimizer, draw: randomness.StepSample
) -> tuple[float, dict[str, float]]:
    """One optimiser step; the loss and its terms before it. Raises NumericFailure with the weights as they were."""
    loss, values = train_step.losses(draw)
    slope = torch.nn.utils.get_total_norm(_gradients(train_step.learner))
    names = list(values)
    told = torch.stack([loss, slope, *(values[name] for name in names)]).tolist()  # a GPU is waited for once
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
    """How long one step takes here, with a learner that is thrown away; the first warms the machine up.

    measured: seconds of steps whose median is taken; of one at least.
    """
    taught = make_train_step(prepare_training(base, subject, settings), make_learner(base, subject, settings))
    times: list[float] = []
    with memory.oom_as_problem("learn", "learn with a smaller --batch"):
        while len(times) < 2 or sum(times[1:]) < measured:
            draw = sample_of_step(subject, settings, len(times))
            start = time.monotonic()
            taught.losses(draw)[0].item()  # a GPU has answered only now
            times.append(time.monotonic() - start)
    return statistics.median(times[1:])


def first_step_gradient(base: Base, subject: Subject, settings: LearnSettings, make_learner: MakeLearner) -> Tensor:
    """The gradient of the first step's loss, of a learner that is thrown away: (N,), all its weights in a row."""
    learner = make_learner(base, subject, settings)
    make_losses(prepare_training(base, subject, settings), learner)(sample_of_step(subject, settings, 0))
    return torch.cat([each.flatten() for each in _gradients(learner)])


def _gradients(learner: nn.Module) -> list[Tensor]:
    """Of each of its weights, which all have one after a backward pass."""
    return [cast(Tensor, weight.grad) for weight in learner.parameters()]


def train(
    context: TrainingContext,
    learner: nn.Module,
    on_step: Callable[[StepReport], None] = lambda report: None,
    saved: Path | None = None,
) -> dict[str, float]:
    """Train `learner` in place for the settings' iterations; the running mean of each term.

    saved: a file that holds the state every 50 steps and whenever `on_step` raises, which is how a person stops at a
    step's end; where it exists already, training goes on from it with the same bits.
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
            running = _running(running, values, done)
            if keeper is not None and (done % SAVE_EVERY == 0 or done == settings.iterations):
                keeper.save(done, running, learner, optimizer)
            try:
                on_step(StepReport(done, settings.iterations, loss, values))
            except BaseException:
                if keeper is not None:
                    keeper.save(done, running, learner, optimizer)
                raise
    return {name: running[name] for name in context.losses}  # in one order, also from a checkpoint of the last step


def run_id(context: TrainingContext, learner: nn.Module) -> str:
    """What makes two learnings the same one besides what was `observed`; a checkpoint is only good for its own."""
    subject, base = context.subject, context.base
    return checkpoint.digest(
        facts=[
            type(learner).__name__,
            context.settings.as_table(),
            [
                base.fingerprint,
                str(base.device.type),
                str(base.precision),
                str(base.fast),
                base.compiled,
                torch.__version__,
            ],
            [subject.word, *subject.hashes],
        ],
        tensors={},
    )


def observed_inputs(context: TrainingContext) -> dict[str, Tensor]:
    """What models have seen in the photos, and learning depends on."""
    subject, faces = context.subject, context.face_embedder
    seen = {"mask": subject.mask, "image_embedding": subject.image_embedding}
    return seen if faces is None else {**seen, "landmarks": faces.landmarks, "likeness": faces.likeness}


def _running(means: Mapping[str, float], values: Mapping[str, float], done: int) -> dict[str, float]:
    """Means that forget after `RUNNING` steps, and are exact before."""
    share = 1 / min(done, RUNNING)
    return {name: means.get(name, 0.0) + share * (value - means.get(name, 0.0)) for name, value in values.items()}
