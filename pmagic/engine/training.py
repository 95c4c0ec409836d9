"""Training: the one loop that every method shares. Only the learner's weights change, never the base's.

A learner is an nn.Module called with timesteps (B,) and image embeddings (B, e). It returns the dynamic tokens
(B, n, w) that stand for the name, and the residual (B, n, w) of their values, or None if the values equal the keys. It
may return a third value, the bypass of their values, and each with an axis of layers: (B, L, n, w); see
`conditioning.encode`. It may also have `apply_to(unet)`, a context manager in which the UNet is changed by what is
being trained, `groups(settings)`, the optimizer's parameter groups, each with its learning rate, and
`before_step(context, sample, step)`, which is called before each step and may change the learner's buffers. Persistent
buffers are part of a checkpoint.
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
from pmagic.engine import (
    added_conditions,
    checkpoint,
    class_pictures,
    compiling,
    face_embedding,
    graphs,
    memory,
    randomness,
    schedulers,
    token_batch,
)
from pmagic.engine.added_conditions import AddedConditions
from pmagic.engine.conditioning import Encoded, packed_kv, unet_in_compute_dtype
from pmagic.engine.face_embedding import FaceEmbedder
from pmagic.engine.recipes import LearnSettings
from pmagic.engine.subject import Subject
from pmagic.engine.text_encoding import encode
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
    templates: TokenBatch  # every training prompt with the subject's first prefix, then with the next one
    open_prompts: TokenBatch
    schedule: schedulers.NoiseSchedule
    losses: Mapping[str, ModuleType]
    face_embedder: FaceEmbedder | None  # None if no loss reads the face
    unet: Callable[..., tuple[Tensor]]  # the base's UNet, or its compiled form
    added: AddedConditions | None = None  # of the prompts and photos, for a base that reads them
    class_prompt: Tensor | None = None  # (1, S, 2w), packed, of the class pictures; None if no loss reads them
    class_added: Mapping[str, Tensor] | None = None  # one row each, of the class pictures, where `added` is there

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
    reads_class_pictures = any(getattr(loss, "READS_CLASS_PICTURES", False) for loss in losses.values())
    if reads_class_pictures and (subject.class_latents is None or len(subject.class_latents) != settings.prior):
        raise ValueError("class pictures are drawn before anything is trained with them")
    training_prompts = [prefix + each for prefix in subject.prefixes for each in settings.templates]
    return TrainingContext(
        base=base,
        subject=subject,
        settings=settings,
        templates=token_batch.tokens_with_name(base, training_prompts, settings.tokens),
        open_prompts=token_batch.tokens_with_name(base, settings.open_prompts, settings.tokens),
        schedule=schedulers.noise_schedule(base.pipeline.scheduler.config),
        losses=losses,
        face_embedder=face_embedding.open_face_embedder(base, subject)
        if any(loss.READS_FACE for loss in losses.values())
        else None,
        unet=compiling.compile_unet(base.pipeline.unet) if base.compiled else base.pipeline.unet,
        added=added_conditions.of_training(base, subject, training_prompts),
        class_prompt=class_pictures.encode_prompt(base, subject.word) if reads_class_pictures else None,
        class_added=added_conditions.of_picture(base, class_pictures.PROMPT.format(subject.word), 1)
        if reads_class_pictures
        else None,
    )


def sample_of_step(subject: Subject, settings: LearnSettings, step: int) -> randomness.StepSample:
    """The random values of optimizer step `step` when learning `subject`; 0 is the first step."""
    return randomness.sample_step(settings, step, len(subject.mean), subject.mean.shape[1:], subject.mean.dtype)


def prepare_step(context: TrainingContext, learner: nn.Module, step: int) -> randomness.StepSample:
    """The random values of optimizer step `step`, for which the learner has prepared itself."""
    sample = sample_of_step(context.subject, context.settings, step)
    before_step: Callable[[TrainingContext, randomness.StepSample, int], None] | None
    before_step = getattr(learner, "before_step", None)
    if before_step is not None:
        before_step(context, sample, step)
    return sample


def forward_step(context: TrainingContext, learner: nn.Module, draw: randomness.StepSample) -> StepOutput:
    """One forward pass: noise the latents, encode the prompts, call the UNet. Differentiable in the learner."""
    base, subject = context.base, context.subject
    draw = draw.to(base.device)
    scale = base.pipeline.vae.config.scaling_factor
    latents = scale * (subject.mean[draw.photo] + subject.std[draw.photo] * draw.posterior)  # (B, C, h, w)
    noisy, target = _noised(context, latents, draw.noise, draw.t)
    open_prompts = context.open_prompts.select(draw.open_prompt) if context.reads_open_prompt else None
    encoded = _encode_prompts(context, learner, draw, open_prompts)
    batch, t, rows, packed = len(draw.t), draw.t, noisy, encoded.condition.pack()
    packed, class_target = packed[:batch], None
    if context.class_prompt is not None:  # the class pictures are rows of the same UNet call
        assert subject.class_latents is not None  # prepare_training has checked it
        of_class = subject.class_latents[draw.class_picture]
        class_rows, class_target = _noised(context, of_class, draw.class_noise, draw.class_t)
        t, rows = torch.cat([t, draw.class_t]), torch.cat([rows, class_rows])
        packed = torch.cat([packed, context.class_prompt.expand(len(class_rows), -1, -1)])
    unet = base.pipeline.unet
    with packed_kv(unet), unet_in_compute_dtype(base):
        (predictions,) = context.unet(
            rows.to(base.weights_dtype),
            t,
            encoder_hidden_states=packed.to(base.weights_dtype),
            added_cond_kwargs=_added_rows(context, draw),
            return_dict=False,
        )
    prediction, class_prediction = predictions[:batch], predictions[batch:]
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
        velocity=_predicts_velocity(context),
        class_prediction=None if class_target is None else class_prediction.to(class_target.dtype),
        class_target=class_target,
        identity_distance=None
        if context.face_embedder is None
        else partial(context.face_embedder.identity_distance, photo=draw.photo),
    )


def _noised(context: TrainingContext, latents: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The latents with noise of level t, and what the UNet should predict for them: (B, C, h, w) each."""
    target = context.schedule.get_velocity(latents, noise, t) if _predicts_velocity(context) else noise
    return context.schedule.add_noise(latents, noise, t), target


def _predicts_velocity(context: TrainingContext) -> bool:
    return context.schedule.config.prediction_type == "v_prediction"


def _encode_prompts(
    context: TrainingContext, learner: nn.Module, draw: randomness.StepSample, open_prompts: TokenBatch | None
) -> Encoded:
    """Encode the training prompts and, in the rows after them, the open prompts, in one pass of the text encoder."""
    said = context.templates.select(_prompt_of(context, draw))
    dynamic, residual, *more = learner(draw.t, context.subject.image_embedding[draw.photo])
    bypass = more[0] if more else None
    keep = draw.keep
    if open_prompts is not None:  # the same timesteps and photos, another prompt with its own dropout
        said = said.followed_by(open_prompts)
        dynamic, keep = torch.cat([dynamic, dynamic]), torch.cat([keep, draw.keep_open])
        residual, bypass = (None if each is None else torch.cat([each, each]) for each in (residual, bypass))
    if residual is not None:
        # A dropped residual stays in the graph as zeros: its gradients are 0 rather than None, so the optimizer still
        # updates with its momentum.
        residual = residual * keep[:, None, None]
    return encode(context.base, said, dynamic, residual, bypass, with_attention=open_prompts is not None)


def _prompt_of(context: TrainingContext, draw: randomness.StepSample) -> Tensor:
    """Which training prompt each sample has: its template, with the text before it that its photo has."""
    if context.subject.prefix is None:
        return draw.template
    return draw.template + context.subject.prefix[draw.photo] * len(context.settings.templates)


def _added_rows(context: TrainingContext, draw: randomness.StepSample) -> dict[str, Tensor] | None:
    """The UNet's `added_cond_kwargs`: of the samples, and after them of the class pictures."""
    if context.added is None:
        return None
    rows = context.added.rows(_prompt_of(context, draw), draw.photo)
    if context.class_prompt is None:
        return rows
    of_class = context.class_added
    assert of_class is not None  # as the samples' rows
    count = len(draw.class_t)
    return {name: torch.cat([each, of_class[name].expand(count, -1)]) for name, each in rows.items()}


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
# Returns the loss of a sample and its terms, each (), and leaves their gradients in the learner. Of joint training, the
# argument holds one sample for each subject.
Losses = Callable[[Any], tuple[Tensor, dict[str, Tensor]]]


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
            "this method changes the UNet in each step, for which it would be compiled anew, so --compile does not go "
            "with it",
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
        return add_gradients(context, learner, draw)

    return losses


def add_gradients(
    context: TrainingContext, learner: nn.Module, draw: randomness.StepSample, share: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """One forward and backward pass, whose gradients, times `share`, are added to the learner's.

    Returns the loss times `share` and the unweighted terms, () each.
    """
    apply_to = getattr(learner, "apply_to", nullcontext)
    # The weights stay until the backward pass is done: checkpointed blocks are recomputed with them.
    with context.base.tf32(), apply_to(context.base.pipeline.unet):
        values = loss_terms(context, forward_step(context, learner, draw))
        loss = share * weighted_sum(context, values).mean()
        loss.backward()
    return loss.detach(), {name: value.detach().mean() for name, value in values.items()}


def optimizer_step(
    train_step: TrainStep, optimizer: torch.optim.Optimizer, draw: Any
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
    context, learner = prepare_training(base, subject, settings), make_learner(base, subject, settings)
    taught = make_train_step(context, learner)
    times: list[float] = []
    with memory.oom_as_problem("learn", "learn with a smaller --batch"):
        while len(times) < 2 or sum(times[1:]) < measured:
            start = time.monotonic()
            draw = prepare_step(context, learner, len(times))
            taught.losses(draw)[0].item()  # waits for the GPU
            times.append(time.monotonic() - start)
    return statistics.median(times[1:])


def first_step_gradient(base: Base, subject: Subject, settings: LearnSettings, make_learner: MakeLearner) -> Tensor:
    """The gradient of the first step's loss, flattened over all weights of a learner that is discarded: (N,)."""
    context, learner = prepare_training(base, subject, settings), make_learner(base, subject, settings)
    make_losses(context, learner)(prepare_step(context, learner, 0))
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

    saved: a checkpoint file, written every 50 steps, of a large learner more seldom (checkpoint.SavePace), and whenever
    `on_step` raises, which is how a user stops training at the end of a step. If the file exists, training resumes from
    it bit for bit.
    Raises NumericFailure, OutOfMemory, StorageFailed, Incompatible or BundleDamaged (see checkpoint).
    """
    keeper = None if saved is None else checkpoint.Checkpoint(saved, run_id(context, learner), observed_inputs(context))

    def sample(step: int) -> randomness.StepSample:
        return prepare_step(context, learner, step)

    running = run_steps(make_train_step(context, learner), sample, on_step, keeper)
    return {name: running[name] for name in context.losses}  # in the same order after resuming, too


def run_steps(
    train_step: TrainStep,
    sample: Callable[[int], Any],
    on_step: Callable[[StepReport], None],
    keeper: checkpoint.Checkpoint | None,
) -> dict[str, float]:
    """The steps that a checkpoint does not have yet; returns the running mean of each term.

    sample: the random values of a step, as the train step takes them. Raises as `train`.
    """
    settings, learner = train_step.context.settings, train_step.learner
    optimizer = make_optimizer(learner, settings)
    done, running = keeper.restore(learner, optimizer) if keeper is not None else (0, {})
    pace = checkpoint.SavePace(learner, SAVE_EVERY)
    with memory.oom_as_problem("learn", "learn with a smaller --batch"):
        for step in range(done, settings.iterations):
            loss, values = optimizer_step(train_step, optimizer, sample(step))
            done = step + 1
            running = _update_mean(running, values, done)
            if keeper is not None and (pace.is_due(done) or done == settings.iterations):
                with pace.measured():
                    keeper.save(done, running, learner, optimizer)
            try:
                on_step(StepReport(done, settings.iterations, loss, values))
            except BaseException:
                if keeper is not None:
                    keeper.save(done, running, learner, optimizer)
                raise
    return running


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
    """What training depends on besides photos and settings: what vision models found, and class pictures."""
    subject, faces = context.subject, context.face_embedder
    seen = {"mask": subject.mask, "image_embedding": subject.image_embedding}
    if context.class_prompt is not None and subject.class_latents is not None:
        seen["class_pictures"] = subject.class_latents.mean(dim=(2, 3))  # enough to tell others by
    return seen if faces is None else {**seen, "landmarks": faces.landmarks, "likeness": faces.likeness}


def _update_mean(means: Mapping[str, float], values: Mapping[str, float], done: int) -> dict[str, float]:
    """Exact means for the first `RUNNING` steps, exponential moving averages after them."""
    share = 1 / min(done, RUNNING)
    return {name: means.get(name, 0.0) + share * (value - means.get(name, 0.0)) for name, value in values.items()}
