"""The probe: it finds for each photo the part of the schedule that is worth training in (paper, Sec. 3.1).

The method's own mapper is trained briefly over the whole schedule. Then, for a grid of timesteps, the photo is noised,
the UNet is called, and its attention map for the name is compared with the subject's mask. The intersection over union
(IoU) falls with t, because the UNet finds less the more noise there is. The dynamic interval is where the IoU lies
between two thresholds.

A map is binarized at its mean, which does not depend on its contrast; that differs between bases and between
timesteps. Against exact masks, the IoU of such maps rises most reliably as t falls
(`python -m pmagic.experiments.stages --training`).
"""

# P photos . T timesteps of the grid . R rows of a UNet call . S text positions . C, h, w of the latents

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from pmagic.bases.loading import Base
from pmagic.engine import attention, mapper, memory, randomness, token_batch, training
from pmagic.engine.conditioning import encode, packed_kv, unet_in_compute_dtype
from pmagic.engine.recipes import LearnSettings
from pmagic.engine.subject import Subject
from pmagic.persona import Persona, StageBounds

WHOLE = StageBounds(0, 1000)
GRID = tuple(range(975, 0, -50))  # timesteps, falling
NOISES = 4  # fixed noises at each timestep, divided among the photos
LOSSES = {"masked_mse": 1.0}  # enough, because the attention to the name does not depend on the other losses

Curve = tuple[tuple[int, float], ...]  # (t, IoU), largest t first


@dataclass(frozen=True)
class Probe:
    """The result of a probe. maps: of the first photo, at the curve's timesteps.

    fallback_reason: why the bounds are the fallback, "" where they are the probe's own.
    """

    bounds: StageBounds
    curve: Curve
    maps: Tensor  # (T, h, w), range [0, 1]
    mask: Tensor  # (h, w) bool, of the first photo
    fallback_reason: str = ""


def probe(
    base: Base,
    subject: Subject,
    settings: LearnSettings,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Probe:
    """Train briefly, measure the attention maps and read the bounds. on_step gets the steps done and the total.

    Raises the errors of training.train.
    """
    before = settings.probe_iterations
    total = before + len(GRID)
    context, learner = train_briefly(base, subject, settings, lambda report: on_step(report.step, total))
    curve, maps = [], []
    for done, t in enumerate(GRID, before + 1):
        seen = attention_map(context, learner, t)  # (R, h, w)
        mask = subject.mask[photo_of_row(subject)][:, 0]
        curve.append((t, float(overlap(binarize(seen), outline_subject(mask)).mean())))
        maps.append(seen[photo_of_row(subject) == 0].mean(dim=0))
        on_step(done, total)
    bounds, fallback_reason = read_bounds(tuple(curve), settings)
    return Probe(bounds, tuple(curve), torch.stack(maps), outline_subject(subject.mask[:1, 0])[0], fallback_reason)


def train_briefly(
    base: Base,
    subject: Subject,
    settings: LearnSettings,
    on_step: Callable[[training.StepReport], None] = lambda report: None,
) -> tuple[training.TrainingContext, nn.Module]:
    """The mapper after the probe's short training, and its training context."""
    brief = probe_settings(settings)
    context = training.prepare_training(base, subject, brief)
    learner = make_mapper(base, subject, brief)
    training.train(context, learner, on_step)
    return context, learner


def make_mapper(base: Base, subject: Subject, settings: LearnSettings) -> mapper.Mapper:
    """The untrained mapper of a subject, for settings with bounds."""
    return mapper.fresh(token_batch.word_embedding(base, subject.word), subject.image_embedding, settings)


def probe_settings(settings: LearnSettings) -> LearnSettings:
    """The probe's own short training: the whole schedule, the denoising loss alone."""
    return replace(settings, bounds=WHOLE, iterations=settings.probe_iterations, losses=LOSSES)


def with_probe_result(persona: Persona, curve: Curve, fallback_reason: str) -> Persona:
    """The persona with the probe's curve, and the origin of its bounds: the probe, or why it fell back."""
    stages = f"fell back: {fallback_reason}" if fallback_reason else "found by the probe"
    return replace(persona, curve=curve, settings={**persona.settings, "stages": stages})


def attention_map(context: training.TrainingContext, learner: nn.Module, t: int) -> Tensor:
    """The UNet's attention map for the name at timestep t, for each photo and noise: (R, h, w), range [0, 1]."""
    height, width = context.subject.mean.shape[-2:]
    return attention.average(attention_maps(context, learner, t), (height, width))


@torch.no_grad()
def attention_maps(
    context: training.TrainingContext, learner: nn.Module, t: int, *, words_alone: bool = True
) -> list[attention.AttentionMap]:
    """The same for each layer. words_alone: the start, end and padding tokens do not compete for the attention."""
    base, subject = context.base, context.subject
    photo = photo_of_row(subject)
    rows = len(photo)
    shape = (rows, *subject.mean.shape[1:])
    noise = torch.randn(shape, generator=randomness.generator(context.settings.seed, "probe")).to(subject.mean)
    latents = base.pipeline.vae.config.scaling_factor * subject.mean[photo]
    timesteps = torch.full((rows,), t, device=base.device)
    noisy = context.schedule.add_noise(latents, noise, timesteps)
    said = context.templates.select(torch.zeros(rows, dtype=torch.long, device=base.device))
    dynamic, residual = learner(timesteps, subject.image_embedding[photo])
    condition = encode(base.pipeline.text_encoder, said.ids, said.placeholder_index, dynamic, residual).condition
    unet = base.pipeline.unet
    places = torch.arange(said.placeholder_index.shape[1], device=base.device)
    competing = (
        (places >= 1) & (places <= said.lengths[:, None])
        if words_alone
        else torch.ones_like(said.placeholder_index >= 0)
    )
    with (
        memory.oom_as_problem("probe", "probe with --device cpu"),
        packed_kv(unet),
        unet_in_compute_dtype(base),
        attention.capture_attention(unet, said.placeholder_index >= 0, competing) as seen,
    ):
        packed = condition.pack().to(base.weights_dtype)
        unet(noisy.to(base.weights_dtype), timesteps, encoder_hidden_states=packed, return_dict=False)
    return seen


def outline_subject(mask: Tensor) -> Tensor:
    """The cells of each soft mask (R, h, w) that belong to the subject, those above half of its maximum: bool."""
    return mask > 0.5 * mask.amax(dim=(1, 2), keepdim=True)


def binarize(maps: Tensor) -> Tensor:
    """The cells of each map (R, h, w) that are brighter than its mean: bool."""
    return maps > maps.mean(dim=(1, 2), keepdim=True)


def overlap(found: Tensor, mask: Tensor) -> Tensor:
    """Intersection over union of bool cells (R, h, w): (R,), range [0, 1]."""
    both, either = ((one.flatten(1)).sum(dim=1) for one in (found & mask, found | mask))
    return both / either.clamp(min=1)


def isotonic(curve: Curve) -> list[float]:
    """The IoU at each t of the curve, made monotone: the least-squares fit that never falls as t falls."""
    from scipy.optimize import isotonic_regression

    return isotonic_regression([iou for _, iou in curve], increasing=True).x.tolist()


def read_bounds(curve: Curve, settings: LearnSettings) -> tuple[StageBounds, str]:
    """The dynamic interval, where `iou_low` <= IoU <= `iou_high`, and ""; or `fallback` and the reason for it.

    A curve above `iou_low` from the start has no first static stage; `iou_high` = 1 means no second static stage.
    """
    iou_low, iou_high, fallback = settings.iou_low, settings.iou_high, settings.fallback
    ious = isotonic(curve)
    if ious[-1] < iou_low:
        return fallback, f"the IoU never reaches {iou_low:g}, it ends at {ious[-1]:.2f}"
    if iou_high < 1 and ious[-1] < iou_high:
        return fallback, f"the IoU never reaches {iou_high:g}, it ends at {ious[-1]:.2f}"
    if ious[0] >= iou_high:
        return fallback, f"the IoU is above {iou_high:g} from the start, at {ious[0]:.2f}"
    times = [t for t, _ in curve]
    high = 1000 if ious[0] >= iou_low else round(_find_crossing(times, ious, iou_low))
    low = 0 if iou_high >= 1 else round(_find_crossing(times, ious, iou_high))
    if high - low < settings.narrowest:
        return fallback, f"its own dynamic stage, {low}:{high}, is narrower than {settings.narrowest} timesteps"
    return StageBounds(low, high), ""


def _find_crossing(times: Sequence[int], ious: Sequence[float], level: float) -> float:
    """The largest t at which the rising curve, interpolated linearly, reaches `level`."""
    after = int(np.argmax(np.array(ious) >= level))
    below, above = ious[after - 1], ious[after]
    return times[after - 1] + (times[after] - times[after - 1]) * (level - below) / (above - below)


def photo_of_row(subject: Subject) -> Tensor:
    """The photo of each noise: (R,) long; each photo has at least one noise."""
    photos = len(subject.mean)
    return torch.arange(max(NOISES, photos), device=subject.mean.device) % photos
